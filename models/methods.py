"""The table of methods. A new one is a file of its own and a line here."""

from collections.abc import Callable

from torch import nn

from models.simclr import SimCLR

# name -> module(backbone, feature_dim, *, hidden_dim, output_dim, and the method's own params)
METHODS: dict[str, Callable[..., nn.Module]] = {"simclr": SimCLR}
