"""A classifier of cosines that trains for one experience."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import UNSEEN


class CosineHead(nn.Module):
    """Logits σ · cos(f, V_c) of the classes of an experience.

    V starts from U(-1/√D, 1/√D) and σ from 1. Both train. No bias.

    Args:
        n_features: D.
        classes: labels of the experience, in the order of V's rows.
        generator: of the start, on the CPU.

    Attributes:
        weight: V (C, D).
        sigma: σ (1,).
    """

    def __init__(
        self, n_features: int, classes: Sequence[int], generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_features)
        start = torch.rand(len(classes), n_features, generator=generator)
        self.weight = nn.Parameter((2 * start - 1) * bound)
        self.sigma = nn.Parameter(torch.ones(1))
        self.register_buffer("classes", torch.tensor(list(classes), dtype=torch.int64))

    classes: Tensor

    def forward(self, features: Tensor, n_classes: int = 0) -> Tensor:
        """Logits (B, C) of features (B, D) by label; -1000 for labels of no row.

        Args:
            features: of images.
            n_classes: C at least; the highest label counts as well.
        """
        cosines = F.normalize(features, dim=1) @ F.normalize(self.weight, dim=1).T
        width = max(n_classes, int(self.classes.max()) + 1)
        logits = features.new_full((len(features), width), UNSEEN)
        return logits.index_copy(1, self.classes, (self.sigma * cosines).to(logits.dtype))
