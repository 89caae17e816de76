"""What RanPAC keeps of past images so that its statistics can follow a tuned backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from .._support.randomness import derive_seed
from .buffers import GrowingBuffers
from .drift import AffineMap


class Memory(GrowingBuffers, ABC):
    """Past features, or what stands for them, in buffers."""

    @abstractmethod
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (n, D) of labels (n,), all finite."""

    @abstractmethod
    def move(self, drift: AffineMap) -> None:
        """Carry everything along."""

    @abstractmethod
    def recall(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) in float32 and labels (N,), as many as were added."""


class FeatureMemory(Memory):
    """The backbone's features of every past image, in float16: 2 D bytes an image, no pixels.

    At D = 768 that is 1.5 kB an image, and less than G at M = 10000 in float32 up to 260000 images.
    Features can give away what an image shows; where that matters, keep Gaussians.

    What is stored are deviations from the mean of the first features, so that float16 rounds those
    and not a large common part.
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
        """Take in features (n, D) of labels (n,), all finite.

        Raises:
            FloatingPointError: a feature is beyond float16's range of 65504; nothing was added.
        """
        x = features.detach().to(torch.float64)
        center = self.center if len(self.labels) else x.mean(0)
        deviations = _half(x - center)
        earlier = self.deviations if len(self.labels) else deviations[:0]
        self.center, self.deviations = center, torch.cat([earlier, deviations])
        self.labels = torch.cat([self.labels, labels])

    def move(self, drift: AffineMap) -> None:
        """Carry every feature along.

        Raises:
            FloatingPointError: a feature is beyond float16's range then; nothing was moved.
        """
        self.deviations = _half(self.deviations.to(drift.weight.dtype) @ drift.weight)
        self.center = drift(self.center)

    def recall(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) in float32 and labels (N,)."""
        return (self.center + self.deviations).float(), self.labels


def _half(x: Tensor) -> Tensor:
    half = x.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise FloatingPointError(
            "A feature is beyond the range of float16. Use RanPAC(memory='gaussians')."
        )
    return half


class GaussianMemory(Memory):
    """Count and mean of each class, and one covariance within classes: 8 (C D + D²) bytes.

    Recalled features are drawn from these Gaussians, as many as each class had; the same for the
    same memory.

    Args:
        seed: of the draws.
    """

    counts: Tensor  # (C,)
    sums: Tensor  # (C, D)
    scatter: Tensor  # (D, D) within classes, not divided

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(0, 0, dtype=torch.float64))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (n, D) of labels (n,), all finite."""
        x = features.detach().to(torch.float64)
        n_classes, width = max(len(self.counts), int(labels.max()) + 1), x.shape[1]
        if not len(self.counts):
            self.sums, self.scatter = x.new_zeros(0, width), x.new_zeros(width, width)
        squares = self.scatter + self._between() + x.T @ x
        more = n_classes - len(self.counts)
        self.counts, self.sums = F.pad(self.counts, (0, more)), F.pad(self.sums, (0, 0, 0, more))
        self.counts.index_add_(0, labels, torch.ones_like(labels))
        self.sums.index_add_(0, labels, x)
        self.scatter = squares - self._between()

    def _between(self) -> Tensor:
        """Σ_c n_c μ_c μ_cᵀ (D, D)."""
        scaled = self.sums / self.counts.clamp(min=1).sqrt().unsqueeze(1)
        return scaled.T @ scaled

    def move(self, drift: AffineMap) -> None:
        """Carry means and covariance along."""
        self.sums = drift.of_sums(self.sums, self.counts)
        self.scatter = drift.weight.T @ self.scatter @ drift.weight

    def recall(self) -> tuple[Tensor, Tensor]:
        """Drawn features (N, D) in float32 and labels (N,)."""
        labels = torch.arange(len(self.counts), device=self.counts.device)
        labels = labels.repeat_interleave(self.counts)
        freedom = max(1, len(labels) - int((self.counts > 0).sum()))
        variances, axes = torch.linalg.eigh(self.scatter / freedom)
        spread = axes * variances.clamp(min=0).sqrt()  # (D, D), the covariance is spread spreadᵀ
        generator = torch.Generator().manual_seed(derive_seed(self.seed, len(labels)))
        noise = torch.randn(len(labels), len(spread), generator=generator, dtype=torch.float64)
        means = self.sums / self.counts.clamp(min=1).unsqueeze(1)
        return (means[labels] + noise.to(spread.device) @ spread.T).float(), labels
