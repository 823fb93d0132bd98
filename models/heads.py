"""The small networks on top of a backbone that only training needs."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

# B batch


def mlp(dims: Sequence[int], output_norm: nn.Module | None) -> nn.Sequential:
    """Fully connected layers, each but the last followed by batch norm and ReLU.

    Args:
        dims: the input's width, then each layer's: [B, dims[0]] -> [B, dims[-1]].
        output_norm: what follows the last layer; without one that layer has a bias instead.
    """
    layers: list[nn.Module] = []
    for in_dim, hidden_dim in pairwise(dims[:-1]):
        # the batch norm would take a bias away again
        layers += [nn.Linear(in_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU()]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=output_norm is None))
    if output_norm is not None:
        layers.append(output_norm)
    return nn.Sequential(*layers)


def projection_mlp(
    in_dim: int, hidden_dim: int, output_dim: int, num_layers: int, *, output_affine: bool = True
) -> nn.Sequential:
    """A projection head, a batch norm after each layer, the last too: [B, in_dim] -> [B, output_dim].

    Args:
        in_dim: the backbone's features.
        hidden_dim: width of every layer but the last.
        output_dim: dimension of the projections.
        num_layers: fully connected ones; SimCLR has 2 (arXiv:2002.05709, sec. 4.2, batch norms as in the
            authors' code), SimSiam 3 (arXiv:2011.10566, sec. 3), NNCLR 3 (arXiv:2104.14548, sec. 4.1).
        output_affine: whether the last batch norm learns a scale and a shift; SimSiam's code has none there.

    Raises:
        ValueError: there is no layer.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers is {num_layers}, a projection head has at least 1")
    hidden_dims = [hidden_dim] * (num_layers - 1)
    return mlp([in_dim, *hidden_dims, output_dim], nn.BatchNorm1d(output_dim, affine=output_affine))


def prediction_mlp(dim: int, hidden_dim: int) -> nn.Sequential:
    """A predictor of one view's projection from the other's, two layers: [B, dim] -> [B, dim].

    Its output has no batch norm: with one SimSiam's loss oscillates (arXiv:2011.10566, sec. 4.4).

    Args:
        dim: of the projections.
        hidden_dim: SimSiam has a bottleneck of dim / 4, NNCLR 4096 for a dim of 256 (arXiv:2104.14548).
    """
    return mlp([dim, hidden_dim, dim], output_norm=None)
