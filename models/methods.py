"""The table of methods. A new one is a file of its own and its name here.

Each is called with a backbone, its feature_dim and the method's own section of params.yaml.
"""

from models.nnclr import NNCLR
from models.simclr import SimCLR
from models.simsiam import SimSiam

# every one is an `Objective` and an `nn.Module`
METHODS: dict[str, type[SimCLR | SimSiam | NNCLR]] = {"simclr": SimCLR, "simsiam": SimSiam, "nnclr": NNCLR}
