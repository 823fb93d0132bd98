"""The small networks on top of a backbone that only training needs."""

from torch import nn


def projection_mlp(in_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """SimCLR's projection head with batch norm: [B, in_dim] -> [B, output_dim].

    Source: Chen et al. 2020, arXiv:2002.05709, sec. 4.2; a batch norm after each layer, as in the
    authors' code.
    """
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, output_dim, bias=False),
        nn.BatchNorm1d(output_dim),
    )
