"""The classifier that labels teach a backbone with: cosines of embeddings to a direction a class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, D feature, K classes


class CosineClassifier(nn.Module):
    """Logits of normalised embeddings: their cosine to the direction of each class, over a temperature.

    It has no bias and no length, so that what it teaches lies in the direction of the embeddings, which is
    all that a search compares. The directions begin as the means of the classes, as good as a nearest-mean
    classifier: no head that has learned nothing yet pulls at the backbone.

    Args:
        means: of the embeddings of each class, [K, D], of any length.
        temperature: > 0; the lower, the more the nearest wrong class counts.

    Source: Qi et al. 2018, arXiv:1712.07136 (imprinted weights); Wang et al. 2017, arXiv:1704.06369.
    """

    def __init__(self, means: Tensor, temperature: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(F.normalize(means.float(), dim=1))
        self._temperature = temperature

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """float32 [B, D] of length 1 -> logits [B, K]."""
        return embeddings_BD @ F.normalize(self.directions, dim=1).T / self._temperature


def class_sums(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The sum of each class, as long as it is many: [N, D] with classes [N] -> [K, D]; of none, zero."""
    # a product with one-hot rows: adding at indexes has no fixed order on a GPU
    return torch.mm(F.one_hot(labels, num_classes).T.to(embeddings.dtype), embeddings)
