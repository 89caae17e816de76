"""Classifiers that are computed, not trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models import DynamicModule
from torch import Tensor, nn
from torch.nn import functional as F

UNSEEN = -1000.0  # the logit of a class without data, as in Avalanche's IncrementalClassifier


class PrototypeHead(DynamicModule):
    """Cosine similarity to the mean feature of each class (SimpleCIL, arXiv 2303.07338).

    Sums and counts are kept, in float64, so that the means do not depend on how the data was
    batched, and a class that returns adds to its mean.

    Args:
        n_features: D; 0 takes that of the first features.
    """

    sums: Tensor  # (C, D)
    counts: Tensor  # (C,)

    def __init__(self, n_features: int = 0) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(0, n_features, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    @property
    def prototypes(self) -> Tensor:
        """Class means (C, D), not normalised; zero where a class has no data."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    @property
    def seen(self) -> Tensor:
        """(C,) True for classes with data."""
        return self.counts > 0

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        more = n_classes - len(self.counts)
        if more > 0:
            self.sums = F.pad(self.sums, (0, 0, 0, more))
            self.counts = F.pad(self.counts, (0, more))

    def adaptation(self, experience: Any) -> None:
        """Avalanche's hook: room for the labels of an experience, seen or not."""
        self.grow(max(experience.classes_in_this_experience, default=-1) + 1)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,).

        Raises:
            FloatingPointError: a feature is not finite; nothing was added.
        """
        if not torch.isfinite(features).all():
            raise FloatingPointError(
                "The backbone gives NaN or Inf features. Check its weights and the images."
            )
        if self.sums.shape[1] != features.shape[1] and not self.seen.any():
            self.sums = self.sums.new_zeros(len(self.counts), features.shape[1])
        self.grow(int(labels.max()) + 1)
        self.sums.index_add_(0, labels, features.to(torch.float64))
        self.counts.index_add_(0, labels, torch.ones_like(labels))

    def forward(self, features: Tensor) -> Tensor:
        """Cosine logits (B, C) in [-1, 1] of features (B, D); -1000 for classes without data."""
        if not self.seen.any():
            return features.new_full((len(features), len(self.counts)), UNSEEN)
        prototypes = F.normalize(self.prototypes.to(features.dtype), dim=1)
        logits = F.normalize(features, dim=1) @ prototypes.T
        return logits.masked_fill(~self.seen, UNSEEN)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the number of classes of a saved head."""
        if f"{prefix}counts" in state_dict:
            self.sums = torch.zeros_like(state_dict[f"{prefix}sums"], device=self.sums.device)
            self.counts = torch.zeros_like(state_dict[f"{prefix}counts"], device=self.sums.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class BackboneWithHead(nn.Module):
    """A backbone, (B, ...) to (B, D), and a head, (B, D) to (B, C)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.head(self.backbone(x).flatten(1))
        return logits
