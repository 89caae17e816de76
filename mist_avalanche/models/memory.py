"""The features of past images, stored without their pixels."""

import torch
from torch import Tensor

from .drift import AffineMap
from .statistics_head import GrowingBuffers


class FeatureMemory(GrowingBuffers):
    """The features of every past image, in float16: 2 D bytes per image, no pixels.

    Features are stored as deviations from the mean of the first ones, so that float16 does not
    round away small differences. Beyond 65504 they become Inf, which the ridge regression refuses.
    """

    center: Tensor  # (D,)
    deviations: Tensor  # (N, D)
    labels: Tensor  # (N,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(0, 0, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Store features (n, D) of labels (n,)."""
        x, first = features.detach().to(torch.float64), not len(self.labels)
        if first:
            self.center = x.mean(0)
        deviations = (x - self.center).to(torch.float16)
        self.deviations = deviations if first else torch.cat([self.deviations, deviations])
        self.labels = torch.cat([self.labels, labels])

    def move(self, drift: AffineMap) -> None:
        """Move every feature."""
        moved = self.deviations.to(drift.weight.dtype) @ drift.weight
        self.deviations, self.center = moved.to(torch.float16), drift(self.center)

    def recall(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) in float32 and labels (N,)."""
        return (self.center + self.deviations).float(), self.labels
