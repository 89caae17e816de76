"""EASE's classifier: prototypes in every subspace, re-weighted (arXiv 2403.12030, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .heads import UNSEEN, StatisticsHead

COMPLEMENTS = ("all", "newest")


class SubspaceHead(StatisticsHead):
    """Cosines to prototypes P_b[c] of class c in each subspace b, one subspace an experience.

    A class belongs to the experience t(c) that has had it first. In the subspaces up to t(c) its
    prototype is the mean of its features, and in later ones too if it has come back since. Where
    there is none, it is made of those of other classes:

        P_b[c] = Σ_r softmax_r(cos(P_t[c], P_t[r])) P_b[r],  t = t(c),

    over all classes r that have features in b and t. Logits are Σ_b w_b(c) cos(f_b, P_b[c]) with
    w_b(c) = 1 where b = t(c) and else α / T, T being the number of subspaces minus 1.

    Args:
        alpha: α; None for the cosine of all subspaces in one vector.
        beta: weight of a first block beside the subspaces, of the plain backbone, in which every
            class has its mean; None for no such block.
        complement: ``"all"`` makes every missing prototype anew with each subspace; ``"newest"``
            those of the newest subspace, and leaves the others as they are.

    Attributes:
        images: (S, C) of each class, by block.
        sums: (S, C, D) of their features, in float64.
        prototypes: (S, C, D), as of the last :meth:`complete`.
        own: (C,) the block of t(c); -1 where there is none.
    """

    images: Tensor
    sums: Tensor
    prototypes: Tensor
    own: Tensor

    def __init__(
        self, alpha: float | None = 0.1, beta: float | None = None, complement: str = "all"
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.complement = alpha, beta, complement
        self.register_buffer("images", torch.zeros(0, 0, dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(0, 0, 0, dtype=torch.float64))
        self.register_buffer("prototypes", torch.zeros(0, 0, 0, dtype=torch.float64))
        self.register_buffer("own", torch.zeros(0, dtype=torch.int64))

    @property
    def first(self) -> int:
        """The block of the first subspace."""
        return 0 if self.beta is None else 1

    @property
    def n_subspaces(self) -> int:
        """How many there are, the plain backbone not among them."""
        return max(0, len(self.images) - self.first)

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        super().grow(n_classes)
        more = len(self.counts) - len(self.own)
        self.own = F.pad(self.own, (0, more), value=-1)
        self.images = F.pad(self.images, (0, more))
        self.sums = F.pad(self.sums, (0, 0, 0, more))
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, more))

    @torch.no_grad()
    def add_subspace(self, features: Tensor, labels: Tensor) -> None:
        """An experience is over: its images in all subspaces, the new one included.

        Args:
            features: (n, S, D), the plain backbone's first where it takes part.
            labels: (n,).

        Raises:
            FloatingPointError: a feature is not finite; nothing was added.
        """
        self._check(features, labels)
        self._count(labels)
        blocks, width = features.shape[1:]
        more = blocks - len(self.images)
        self.images = F.pad(self.images, (0, 0, 0, more))
        if not self.sums.shape[2]:
            self.sums = self.sums.new_zeros(0, len(self.own), width)
            self.prototypes = self.prototypes.new_zeros(0, len(self.own), width)
        self.sums = F.pad(self.sums, (0, 0, 0, 0, 0, more))
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, 0, 0, more))
        present = torch.unique(labels)
        new = present[self.own[present] < 0]
        self.own[new] = blocks - 1
        self.sums.index_add_(1, labels, features.transpose(0, 1).to(self.sums.dtype))
        self.images.index_add_(1, labels, torch.ones_like(labels).expand(blocks, -1))
        self.complete()

    @torch.no_grad()
    def complete(self) -> None:
        """Means where there are images, and complements where there are none."""
        known = self.images > 0  # (S, C)
        means = self.sums / self.images.clamp(min=1).unsqueeze(2)
        self.prototypes = torch.where(known.unsqueeze(2), means, self.prototypes)
        newest = len(self.images) - 1
        blocks = range(self.first + 1, newest + 1) if self.complement == "all" else [newest]
        for b in blocks:
            for t in range(self.first, b):
                missing = (self.own == t) & ~known[b]
                if missing.any():
                    others = known[b] & known[t]
                    there = F.normalize(self.prototypes[t], dim=1)
                    cosines = there[missing] @ there[others].T
                    self.prototypes[b, missing] = cosines.softmax(1) @ self.prototypes[b, others]

    def weights(self) -> Tensor:
        """w_b(c) (S, C)."""
        blocks, classes = self.images.shape
        if self.alpha is None:
            return self.prototypes.new_ones(blocks, classes)
        w = self.prototypes.new_full((blocks, classes), self.alpha / max(1, self.n_subspaces - 1))
        w[self.own.clamp(min=0), torch.arange(classes, device=w.device)] = 1.0
        if self.beta is not None:
            w[0] = self.beta
        return w

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, S, D); -1000 for classes without data."""
        if not self.seen.any():
            return features.new_full((len(features), len(self.counts)), UNSEEN)
        prototypes = self.prototypes.to(features.dtype)
        if self.alpha is None:
            whole = prototypes.transpose(0, 1).flatten(1)
            logits = F.normalize(features.flatten(1), dim=1) @ F.normalize(whole, dim=1).T
        else:
            f, p = F.normalize(features, dim=2), F.normalize(prototypes, dim=2)
            cosines = torch.einsum("bsd,scd->bsc", f, p)
            logits = (cosines * self.weights().to(f.dtype)).sum(1)
        return logits.masked_fill(~self.seen, UNSEEN)
