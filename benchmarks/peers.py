"""The training steps of other SimCLR code, as its authors run it: PIL views in two workers, float32.

Both take our backbone, so that only the step differs. Each gives the seconds of its steps but the first two,
in which its workers fill their queue, and has more to read than is counted: workers that are done leave the
training process both cores.
"""

import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from models.backbones import Backbone
from pipeline.training.hardware.machine import choose_device

NUM_WORKERS = 2
UNCOUNTED_STEPS = 2
_QUEUED_BATCHES = 2 * NUM_WORKERS  # torch's own: two a worker
IMAGE_SIZE = 32


class PilImages(Dataset[list[Tensor]]):
    """What these transforms are made for: one PIL image at a time; the first `surplus` ones come twice."""

    def __init__(
        self, images: NDArray[np.uint8], transform: Callable[[Image.Image], list[Tensor]], surplus: int
    ) -> None:
        self.images = images
        self.transform = transform
        self.surplus = surplus

    def __len__(self) -> int:
        return len(self.images) + self.surplus

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.images[index % len(self.images)]))


def lightly(
    backbone: Backbone, images: NDArray[np.uint8], batch_size: int, hidden_dim: int, output_dim: int
) -> list[float]:
    """lightly 1.6: its `SimCLRTransform`, projection head and `NTXentLoss`, SGD."""
    head = SimCLRProjectionHead(backbone.feature_dim, hidden_dim, output_dim)
    model = nn.Sequential(backbone.module, head).to(choose_device("auto"))
    criterion = NTXentLoss(temperature=0.5)

    def loss_of(views: list[Tensor]) -> Tensor:
        view0, view1 = views
        loss: Tensor = criterion(model(view0), model(view1))
        return loss

    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    transform = SimCLRTransform(input_size=IMAGE_SIZE, gaussian_blur=0.0)
    return _seconds_of_steps(loss_of, optimizer, images, transform, batch_size)


def sthalles(
    backbone: Backbone, images: NDArray[np.uint8], batch_size: int, hidden_dim: int, output_dim: int
) -> list[float]:
    """The recipe of sthalles/SimCLR, written anew: torchvision's transforms, one pass, masked InfoNCE, Adam.

    Its own blur is torchvision's here, at its kernel of a tenth of the size.
    """
    head = nn.Sequential(
        nn.Linear(backbone.feature_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim)
    )
    model = nn.Sequential(backbone.module, head).to(choose_device("auto"))

    def loss_of(views: list[Tensor]) -> Tensor:
        z = F.normalize(model(torch.cat(views)), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / 0.07).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return F.cross_entropy(logits, partner)

    view = v2.Compose(
        [
            v2.RandomResizedCrop(IMAGE_SIZE),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.GaussianBlur(IMAGE_SIZE // 10, sigma=(0.1, 2.0)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-4)
    return _seconds_of_steps(loss_of, optimizer, images, lambda image: [view(image), view(image)], batch_size)


PEERS = {"lightly": lightly, "sthalles": sthalles}


def _seconds_of_steps(
    loss_of: Callable[[list[Tensor]], Tensor],
    optimizer: torch.optim.Optimizer,
    images: NDArray[np.uint8],
    transform: Callable[[Image.Image], list[Tensor]],
    batch_size: int,
) -> list[float]:
    device = optimizer.param_groups[0]["params"][0].device
    loader = DataLoader(
        PilImages(images, transform, surplus=(_QUEUED_BATCHES + 1) * batch_size),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=NUM_WORKERS,
        multiprocessing_context="fork",  # Linux's own choice: a spawned process would spawn them
    )
    seconds, last = [], time.perf_counter()
    for views in islice(loader, len(images) // batch_size):
        loss = loss_of([view.to(device, non_blocking=True) for view in views])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - last)
        last = time.perf_counter()
    return seconds[UNCOUNTED_STEPS:]
