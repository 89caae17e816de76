"""Models with one subspace per adapter, for EASE (arXiv 2403.12030) and MOS (arXiv 2412.09441)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from .adapters import AdaptedBackbone
from .heads import PrototypeHead
from .linear_head import GrowingLinear
from .statistics_head import GrowingBuffers, StatisticsHead

COMPLEMENTS = ("all", "newest")


class SubspaceHead(StatisticsHead):
    """Cosines to prototypes P_b[c] of class c in subspaces b, one subspace per experience.

    A class belongs to the experience t(c) that had it first. P_b[c] is the mean of its features if
    b ≤ t(c), or if the class has returned since. Otherwise it is synthesised from other classes:

        P_b[c] = Σ_r softmax_r(cos(P_t[c], P_t[r])) P_b[r],  t = t(c),

    over all classes r that have means in b and in t. Logits are Σ_b w_b(c) cos(f_b, P_b[c]), with
    w_b(c) = 1 for b = t(c) and α / T otherwise, where T is the number of subspaces minus 1.

    Args:
        alpha: α; None for the cosine of all subspaces as one vector.
        beta: weight of one more block, before the subspaces: the plain backbone, in which every
            class has its mean. None for no such block.
        complement: ``"all"`` recomputes every missing prototype with each new subspace,
            ``"newest"`` only those in the newest subspace.
    """

    class_axes: Mapping[str, int] = {"images": 1, "sums": 1, "prototypes": 1}
    images: Tensor  # (S, C) number of images of each class, by block
    sums: Tensor  # (S, C, D) of their features
    prototypes: Tensor  # (S, C, D)
    own: Tensor  # (C,) the block t(c); -1 for classes without data

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

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        super().grow(n_classes)
        self.own = F.pad(self.own, (0, len(self.counts) - len(self.own)), value=-1)

    @torch.no_grad()
    def add_subspace(self, features: Tensor, labels: Tensor) -> None:
        """Add an experience: its finite features (n, S, D) in all blocks, including the new one."""
        self._count(features, labels)
        blocks, width = features.shape[1:]
        more = (0, 0, 0, blocks - len(self.images))
        self.images = F.pad(self.images, more)
        wider = (0, width - self.sums.shape[2], *more)
        self.sums, self.prototypes = F.pad(self.sums, wider), F.pad(self.prototypes, wider)
        self.sums.index_add_(1, labels, features.transpose(0, 1).to(self.sums.dtype))
        self.images.index_add_(1, labels, torch.ones_like(labels).expand(blocks, -1))
        present = torch.unique(labels)
        self.own[present[self.own[present] < 0]] = blocks - 1
        self._complete()

    def _complete(self) -> None:
        """Set prototypes: means for classes with images, and complements for the others."""
        known = self.images > 0  # (S, C)
        means = self.sums / self.images.clamp(min=1).unsqueeze(2)
        self.prototypes = torch.where(known.unsqueeze(2), means, self.prototypes)
        newest = len(self.images) - 1
        for b in range(self.first + 1, newest + 1) if self.complement == "all" else [newest]:
            for t in range(self.first, b):
                missing = (self.own == t) & ~known[b]
                others = known[b] & known[t]
                there = F.normalize(self.prototypes[t], dim=1)
                similarity = there[missing] @ there[others].T
                self.prototypes[b, missing] = similarity.softmax(1) @ self.prototypes[b, others]

    def _weights(self, alpha: float) -> Tensor:
        """Weights w_b(c) (S, C)."""
        blocks, classes = self.images.shape
        others = alpha / max(1, blocks - self.first - 1)
        w = self.prototypes.new_full((blocks, classes), others)
        w[self.own.clamp(min=0), torch.arange(classes, device=w.device)] = 1.0
        if self.beta is not None:
            w[0] = self.beta
        return w

    def _logits(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, S, D)."""
        prototypes = self.prototypes.to(features.dtype)
        if self.alpha is None:
            features, prototypes = features.flatten(1), prototypes.transpose(0, 1).flatten(1)
            return F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T
        f, p = F.normalize(features, dim=2), F.normalize(prototypes, dim=2)
        return torch.einsum("bsd,scd,sc->bc", f, p, self._weights(self.alpha).to(f.dtype))


class RetrievalHead(GrowingBuffers):
    """Classifies an image in one of S subspaces; each class belongs to one subspace.

    The search starts in the subspace of the class whose mean has the highest cosine in subspace 0.
    In each round, z are the linear logits in the current subspace, and the next subspace is that of
    the highest z. Logits are log(softmax(z) + softmax(S cos)), with z of the last round.
    """

    own: Tensor  # (C,) the subspace of each class

    def __init__(self, linear: GrowingLinear, rounds: int = 4) -> None:
        super().__init__()
        self.linear, self.first, self.rounds = linear, PrototypeHead(), rounds
        self.register_buffer("own", torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add an experience, features (n, S, D); its labels (n,) belong to the last subspace."""
        self.first.update(features[:, 0], labels)
        self.own = F.pad(self.own, (0, len(self.first.counts) - len(self.own)))
        self.own[labels] = features.shape[1] - 1

    def retrieve(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and z, both (B, C), of features (B, S, D)."""
        z = cosines = self.first(features[:, 0])
        rows = torch.arange(len(z), device=z.device)
        own = F.pad(self.own, (0, cosines.shape[1] - len(self.own)))  # classes without data
        for _ in range(self.rounds):
            z = self.linear(features[rows, own[z.argmax(1)]])
        return cosines[:, : z.shape[1]], z

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, S, D); -1000 or less for classes without data."""
        cosines, z = self.retrieve(features)
        return z.log_softmax(1).logaddexp((features.shape[1] * cosines).log_softmax(1))


class SubspaceViT(AdaptedBackbone):
    """A ViT with an adapter per subspace; an image passes through the ViT once for each."""

    def features(self, x: Tensor) -> Tensor:
        """Features (B, S, D) of images in all subspaces."""
        return torch.stack([self.features_of(part, x) for part in self.parts], dim=1)
