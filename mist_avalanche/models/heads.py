"""Classifiers that are computed from sums of features, not trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models import DynamicModule
from torch import Tensor, nn
from torch.nn import functional as F

from .._support.checks import classes_of
from .buffers import GrowingBuffers
from .drift import AffineMap
from .forward import Forward
from .memory import Memory
from .ridge import BLOCK, check_range, choose_ridge, ridge_for_few, solve_ridge, too_few
from .triangle import add_products, mirror

UNSEEN = -1000.0  # the logit of a class without data, as in Avalanche's IncrementalClassifier


class StatisticsHead(GrowingBuffers, DynamicModule):
    """A head of buffers that grow with the classes: per-class counts, and those of a subclass."""

    counts: Tensor  # (C,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    @property
    def seen(self) -> Tensor:
        """(C,) True for classes with data."""
        return self.counts > 0

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        self.counts = F.pad(self.counts, (0, max(0, n_classes - len(self.counts))))

    def adaptation(self, experience: Any) -> None:
        """Avalanche's hook: room for the labels of an experience, seen or not."""
        self.grow(max(classes_of(experience), default=-1) + 1)

    def _check(self, features: Tensor, labels: Tensor) -> None:
        """Refuse features (B, D) that are not finite, and labels (B,) below 0."""
        if int(labels.min()) < 0:
            raise ValueError(f"Expected labels from 0 on, got {int(labels.min())}.")
        if not torch.isfinite(features).all():
            raise FloatingPointError(
                "The backbone gives NaN or Inf features. Check its weights and the images."
            )

    def _count(self, labels: Tensor) -> None:
        """Make room for labels (B,), and count them."""
        self.grow(int(labels.max()) + 1)
        self.counts.index_add_(0, labels, torch.ones_like(labels))


class PrototypeHead(StatisticsHead):
    """Cosine similarity to the mean feature of each class (SimpleCIL, arXiv 2303.07338).

    Sums and counts are kept, in float64, so that the means do not depend on how the data was
    batched, and a class that returns adds to its mean.
    """

    sums: Tensor  # (C, D)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(0, 0, dtype=torch.float64))

    @property
    def prototypes(self) -> Tensor:
        """Class means (C, D), not normalised; zero where a class has no data."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        super().grow(n_classes)
        self.sums = F.pad(self.sums, (0, 0, 0, len(self.counts) - len(self.sums)))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,).

        Raises:
            FloatingPointError: a feature is not finite; nothing was added.
        """
        self._check(features, labels)
        self._count(labels)
        if self.sums.shape[1] == 0:
            self.sums = self.sums.new_zeros(len(self.counts), features.shape[1])
        self.sums.index_add_(0, labels, features.to(torch.float64))

    @torch.no_grad()
    def move(self, drift: AffineMap) -> None:
        """Carry the prototypes to where a map carries the features."""
        self.sums = drift.of_sums(self.sums, self.counts)

    def forward(self, features: Tensor) -> Tensor:
        """Cosine logits (B, C) in [-1, 1] of features (B, D); -1000 for classes without data."""
        if not self.seen.any():
            return features.new_full((len(features), len(self.counts)), UNSEEN)
        f = features.to(torch.promote_types(features.dtype, torch.float32))
        logits = F.normalize(f, dim=1) @ F.normalize(self.prototypes.to(f.dtype), dim=1).T
        return logits.masked_fill(~self.seen, UNSEEN)


class RidgeHead(StatisticsHead):
    """Ridge regression on random features (RanPAC, arXiv 2307.02251).

    h = relu(f W) with W fixed, standard normal; G = Σ h hᵀ and Q = Σ h yᵀ over all that was ever
    added; logits h (G + λI)⁻¹ Q, for the ridge λ that was chosen last.

    Args:
        n_random_features: M; 0 takes h = f (decorrelation only).
        seed: of W, drawn from a generator of its own on the CPU.
        dtype: of G and Q, float64 or float32. float64 takes 8 M² bytes, 800 MB at M = 10000.
        memory: keeps what :meth:`move` needs of past features; None for nothing.

    Attributes:
        projection: W (D, M) in float32; empty when M is 0.
        gram: G (M, M), or (D, D) when M is 0.
        cross: Q (M, C).
        weight: (G + λI)⁻¹ Q (M, C), as of the last :meth:`solve`.
        ridge: λ.
    """

    projection: Tensor
    gram: Tensor
    cross: Tensor
    weight: Tensor
    ridge: Tensor

    def __init__(
        self,
        n_random_features: int = 10000,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        memory: Memory | None = None,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"Expected `dtype` to be float32 or float64, got {dtype}.")
        self.n_random_features, self.seed = n_random_features, seed
        self.memory = memory
        self.register_buffer("projection", torch.zeros(0, 0))
        self.register_buffer("gram", torch.zeros(0, 0, dtype=dtype))
        self.register_buffer("cross", torch.zeros(0, 0, dtype=dtype))
        self.register_buffer("weight", torch.zeros(0, 0, dtype=dtype))
        self.register_buffer("ridge", torch.ones((), dtype=torch.float64))

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        super().grow(n_classes)
        more = len(self.counts) - self.cross.shape[1]
        self.cross, self.weight = F.pad(self.cross, (0, more)), F.pad(self.weight, (0, more))

    def drawn(self, n_features: int) -> Tensor:
        """W (D, M), of the seed."""
        generator = torch.Generator().manual_seed(self.seed)
        size = n_features, self.n_random_features
        return torch.randn(*size, generator=generator, dtype=torch.float32)

    def expand(self, features: Tensor, columns: slice = slice(None)) -> Tensor:
        """Random features (B, m), the chosen columns of relu(f W), of features (B, D)."""
        f = features.to(torch.promote_types(features.dtype, torch.float32))
        if self.n_random_features == 0:
            return f[:, columns]
        return (f @ self.projection[:, columns].to(f.dtype)).relu_()

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,) to G and Q, a block of rows at a time.

        :meth:`solve` makes them part of the logits.

        Raises:
            FloatingPointError: a feature is not finite, or beyond the range of the memory; nothing
                was added.
        """
        self._check(features, labels)
        check_range(features, self.projection, self.gram)
        if self.memory is not None:
            self.memory.add(features, labels)
        self._count(labels)
        self._shape_for(features)
        self._add(features, labels)

    def _add(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,) to G and Q."""
        for f, y in zip(*(torch.split(part, BLOCK) for part in (features, labels)), strict=True):
            h = self.expand(f).to(self.gram.dtype)  # (b, M)
            add_products(self.gram, h)
            self.cross.index_add_(1, y, h.T)
        mirror(self.gram)

    @torch.no_grad()
    def choose_ridge(
        self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Set the ridge to the candidate of 10⁻⁸ … 10⁸ with the least error on held-out rows.

        With fewer than two held-out rows a class it is
        :func:`~mist_avalanche.models.ridge.ridge_for_few`.

        Args:
            features: (n, D) of one experience; the last 20 % after shuffling are held out.
            labels: (n,).
            generator: of the order, on the CPU.
        """
        self._shape_for(features)
        classes, y = torch.unique(labels, return_inverse=True)
        if too_few(len(features), len(classes)):
            self.ridge.fill_(ridge_for_few(self.expand, len(self.gram), features))
            return
        order = torch.randperm(len(features), generator=generator).to(features.device)
        targets = F.one_hot(y[order])
        self.ridge.fill_(choose_ridge(self.expand, len(self.gram), features[order], targets))

    @torch.no_grad()
    def solve(self) -> None:
        """Compute the weights from G, Q and λ."""
        self.weight = torch.zeros_like(self.cross)
        self.weight[:, self.seen] = solve_ridge(
            self.gram, self.cross[:, self.seen], float(self.ridge)
        )

    @torch.no_grad()
    def move(self, drift: AffineMap) -> None:
        """Carry G and Q to where a map carries the features.

        With a memory they are made again from what it recalls. Without, and without projection,
        f' = f A + b gives Q' = AᵀQ + b nᵀ and G' = AᵀGA + AᵀS bᵀ + b SᵀA + N b bᵀ, where n counts
        each class, N is their sum and S = Q·1 the sum of all features.

        Raises:
            ValueError: there is neither; the sums do not tell where relu(f W) would have gone.
            FloatingPointError: a moved feature is out of range; nothing was moved.
        """
        if self.memory is not None:
            self.memory.move(drift)
            self.gram.zero_()
            self.cross.zero_()
            self._add(*self.memory.recall())
            return
        if self.n_random_features:
            raise ValueError("Random features cannot be moved without a memory of the features.")
        a, b = drift.weight.to(self.gram.dtype), drift.bias.to(self.gram.dtype)
        n = self.counts.to(self.gram.dtype)
        mixed = torch.outer(a.T @ self.cross.sum(1), b)
        self.gram = mirror(a.T @ self.gram @ a + mixed + mixed.T + n.sum() * torch.outer(b, b))
        self.cross = a.T @ self.cross + torch.outer(b, n)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D); -1000 for classes without data."""
        if not self.seen.any():
            return features.new_full((len(features), len(self.counts)), UNSEEN)
        h = self.expand(features)
        return (h @ self.weight.to(h.dtype)).masked_fill(~self.seen, UNSEEN)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse the state of another M."""
        saved = state_dict.get(f"{prefix}projection")
        if saved is not None and len(saved) and saved.shape[1] != self.n_random_features:
            raise ValueError(
                f"The saved head has {saved.shape[1]} random features, this one "
                f"{self.n_random_features}. Give RanPAC(n_random_features={saved.shape[1]})."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _shape_for(self, features: Tensor) -> None:
        """Draw W, and size G and Q, when the width of the features is known."""
        if len(self.gram) > 0:
            return
        n_features, m = features.shape[1], self.n_random_features
        if m:
            self.projection = self.drawn(n_features).to(features.device)
        m = m or n_features
        self.gram = self.gram.new_zeros(m, m)
        self.cross = self.cross.new_zeros(m, len(self.counts))
        self.weight = self.weight.new_zeros(m, len(self.counts))


class BackboneWithHead(nn.Module):
    """A backbone, (B, ...) to (B, D), and a head, (B, D) to (B, C).

    Attributes:
        run_backbone: how the backbone is run (precision, compiled or not).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.run_backbone = Forward()

    def features(self, x: Tensor) -> Tensor:
        """What the head gets of images: features (B, D)."""
        return self.run_backbone(self.backbone, x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images."""
        logits: Tensor = self.head(self.features(x))
        return logits
