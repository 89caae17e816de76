"""Classifiers computed from sums of features.

They keep sums and counts over all images seen. Results therefore do not depend on how the data was
batched, and a class that returns adds to its statistics.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from .drift import AffineMap
from .memory import FeatureMemory
from .ridge import BLOCK, choose_ridge, ridge_for_few, solve_ridge, too_few
from .statistics_head import StatisticsHead


class PrototypeHead(StatisticsHead):
    """Cosine similarity to the mean feature of each class (SimpleCIL, arXiv 2303.07338)."""

    class_axes: Mapping[str, int] = {"sums": 0}
    sums: Tensor  # (C, D)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(0, 0, dtype=torch.float64))

    @property
    def prototypes(self) -> Tensor:
        """Class means (C, D), not normalised; zero for classes without data."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,); FloatingPointError if one is not finite."""
        self._count(features, labels)
        if self.sums.shape[1] == 0:
            self.sums = self.sums.new_zeros(len(self.counts), features.shape[1])
        self.sums.index_add_(0, labels, features.to(torch.float64))

    @torch.no_grad()
    def move(self, drift: AffineMap) -> None:
        """Move the prototypes by the map that moves the features."""
        self.sums = drift.of_sums(self.sums, self.counts)

    def _logits(self, features: Tensor) -> Tensor:
        """Cosines, in [-1, 1]."""
        f = features.to(torch.promote_types(features.dtype, torch.float32))
        prototypes = self.prototypes.to(f.dtype)
        return F.normalize(f, dim=1) @ F.normalize(prototypes, dim=1).T


class RidgeHead(StatisticsHead):
    """Ridge regression on random features (RanPAC, arXiv 2307.02251).

    h = relu(f W) with W fixed, standard normal; G = Σ h hᵀ and Q = Σ h yᵀ over all features ever
    added; logits h (G + λI)⁻¹ Q.

    Args:
        n_random_features: M; 0 takes h = f (decorrelation only), and M is then D.
        seed: seed of W, which is drawn from its own generator on the CPU.
        dtype: dtype of G and Q, float64 or float32. float64 takes 8 M² bytes, 800 MB at M = 10000.
        memory: stores past features, so that :meth:`move` can recompute G and Q.
    """

    class_axes: Mapping[str, int] = {"cross": 1, "weight": 1}
    projection: Tensor  # W (D, M) in float32; empty when M is 0
    gram: Tensor  # G (M, M)
    cross: Tensor  # Q (M, C)
    weight: Tensor  # (G + λI)⁻¹ Q (M, C), from the last solve
    ridge: Tensor  # λ, from the last choose_ridge

    def __init__(
        self,
        n_random_features: int = 10000,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        memory: FeatureMemory | None = None,
    ) -> None:
        super().__init__()
        self.n_random_features, self.seed = n_random_features, seed
        self.memory = memory
        self.register_buffer("projection", torch.zeros(0, 0))
        for name in ("gram", "cross", "weight"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=dtype))
        self.register_buffer("ridge", torch.ones((), dtype=torch.float64))

    def expand(self, features: Tensor) -> Tensor:
        """Random features h = relu(f W) (B, M) of features (B, D)."""
        f = features.to(torch.promote_types(features.dtype, torch.float32))
        if self.n_random_features == 0:
            return f
        return (f @ self.projection.to(f.dtype)).relu_()

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,) to G and Q; call :meth:`solve` afterwards."""
        self._count(features, labels)
        if self.memory is not None:
            self.memory.add(features, labels)
        self._shape_for(features)
        self._add(features, labels)

    def _shape_for(self, features: Tensor) -> None:
        """Draw W, and allocate G and Q for the width of the features."""
        if len(self.gram):
            return
        width, m = features.shape[1], self.n_random_features
        if m:
            generator = torch.Generator().manual_seed(self.seed)
            self.projection = torch.randn(width, m, generator=generator).to(features.device)
        self.gram = self.gram.new_zeros(m or width, m or width)
        self.cross = self.cross.new_zeros(m or width, len(self.counts))
        self.weight = torch.zeros_like(self.cross)

    def _add(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,) to G and Q, a block of rows at a time."""
        for f, y in zip(torch.split(features, BLOCK), torch.split(labels, BLOCK), strict=True):
            h = self.expand(f).to(self.gram.dtype)  # (b, M)
            self.gram.addmm_(h.T, h)
            self.cross.index_add_(1, y, h.T)

    @torch.no_grad()
    def choose_ridge(
        self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Set λ to the candidate among 10⁻⁸ … 10⁸ with the least error on held-out rows.

        With fewer than two held-out rows per class, λ is :func:`~.ridge.ridge_for_few`.

        Args:
            features: (n, D) of one experience; the last 20 % after shuffling are held out.
            labels: (n,).
            generator: source of the shuffled order, on the CPU.
        """
        self._shape_for(features)
        classes, y = torch.unique(labels, return_inverse=True)
        if too_few(len(features), len(classes)):
            self.ridge.fill_(ridge_for_few(self.expand, features))
            return
        order = torch.randperm(len(features), generator=generator).to(features.device)
        targets = F.one_hot(y[order])
        self.ridge.fill_(choose_ridge(self.expand, len(self.gram), features[order], targets))

    @torch.no_grad()
    def solve(self) -> None:
        """Compute the weights from G, Q and λ."""
        seen = self.seen
        self.weight = torch.zeros_like(self.cross)
        self.weight[:, seen] = solve_ridge(self.gram, self.cross[:, seen], float(self.ridge))

    @torch.no_grad()
    def move(self, drift: AffineMap) -> None:
        """Move the memory by the map that moves the features, and recompute G and Q from it.

        Raises:
            ValueError: there is no memory; relu(f W) cannot be moved from G and Q alone.
        """
        if self.memory is None:
            raise ValueError("RidgeHead needs memory=FeatureMemory() to follow a drift.")
        self.memory.move(drift)
        self.gram.zero_()
        self.cross.zero_()
        self._add(*self.memory.recall())

    def _logits(self, features: Tensor) -> Tensor:
        h = self.expand(features)
        return h @ self.weight.to(h.dtype)
