"""What RanPAC keeps of past images so that its statistics can follow a tuned backbone (pure)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .drift import AffineMap


class Memory(Protocol):
    """Past features, or what stands for them."""

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (n, D) of labels (n,)."""
        ...

    def move(self, drift: AffineMap) -> None:
        """Carry everything along."""
        ...

    def recall(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) and labels (N,), as many as were added."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that hold all of it."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved tensors."""
        ...


class FeatureMemory:
    """The backbone's features of every past image, in float16: 2 D bytes an image, no pixels.

    At D = 768 that is 1.5 kB an image, and less than G at M = 10000 in float32 up to 260000 images.
    Features can give away what an image shows; where that matters, keep Gaussians.

    What is stored are deviations from the mean of the first features, so that float16 rounds those
    and not a large common part.
    """

    def __init__(self) -> None:
        self.center = torch.zeros(0, dtype=torch.float64)  # (D,)
        self.deviations = torch.zeros(0, 0, dtype=torch.float16)  # (N, D)
        self.labels = torch.zeros(0, dtype=torch.int64)  # (N,)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (n, D) of labels (n,).

        Raises:
            FloatingPointError: a feature is beyond float16's range of 65504.
        """
        x = features.detach().to(torch.float64)
        if not len(self.center):
            self.center, self.labels = x.mean(0), labels[:0]
            self.deviations = x[:0].half()
        deviations = (x - self.center).half()
        if not bool(torch.isfinite(deviations).all()):
            raise FloatingPointError(
                "A feature is beyond the range of float16. Use RanPAC(memory='gaussians')."
            )
        self.deviations = torch.cat([self.deviations, deviations])
        self.labels = torch.cat([self.labels, labels])

    def move(self, drift: AffineMap) -> None:
        """Carry every feature along."""
        self.center = drift(self.center)
        self.deviations = (self.deviations.to(drift.weight.dtype) @ drift.weight).half()

    def recall(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) in float32 and labels (N,)."""
        return (self.center + self.deviations).float(), self.labels

    def state_dict(self) -> dict[str, Tensor]:
        """``center``, ``deviations`` and ``labels``."""
        return {"center": self.center, "deviations": self.deviations, "labels": self.labels}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved tensors."""
        self.center, self.labels = state["center"], state["labels"]
        self.deviations = state["deviations"]


class GaussianMemory:
    """Count and mean of each class, and one covariance within classes: 8 (C D + D²) bytes.

    Recalled features are drawn from these Gaussians, as many as each class had.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.counts = torch.zeros(0, dtype=torch.int64)  # (C,)
        self.sums = torch.zeros(0, 0, dtype=torch.float64)  # (C, D)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)  # (D, D) within classes, not divided

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (n, D) of labels (n,)."""
        x = features.detach().to(torch.float64)
        n_classes, width = max(len(self.counts), int(labels.max()) + 1), x.shape[1]
        if not len(self.counts):
            self.counts = labels.new_zeros(0)
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
        noise = torch.randn(len(labels), len(spread), generator=self.generator, dtype=torch.float64)
        means = self.sums / self.counts.clamp(min=1).unsqueeze(1)
        return (means[labels] + noise.to(spread.device) @ spread.T).float(), labels

    def state_dict(self) -> dict[str, Tensor]:
        """``counts``, ``sums``, ``scatter`` and the generator's state."""
        return {
            "counts": self.counts,
            "sums": self.sums,
            "scatter": self.scatter,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved tensors."""
        self.counts, self.sums, self.scatter = state["counts"], state["sums"], state["scatter"]
        self.generator.set_state(state["generator"])
