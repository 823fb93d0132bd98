"""The table of methods. A new one is a file of its own and its name here.

Each is called with a backbone, its feature_dim and the method's own section of params.yaml.
"""

from models.nnclr import NNCLR
from models.objective import Objective
from models.simclr import SimCLR
from models.simsiam import SimSiam

METHODS: dict[str, type[Objective]] = {"simclr": SimCLR, "simsiam": SimSiam, "nnclr": NNCLR}
