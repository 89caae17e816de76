"""Trainable linear and cosine classifiers that grow with the classes they are trained on."""

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models import IncrementalClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import classes_of


class GrowingLinear(IncrementalClassifier):
    """logits = f Wᵀ + b, with rows for the classes trained on so far.

    Avalanche's classifier also grows in evaluation, after which its weight is not the tensor that
    the optimizer holds. This one does not; classes that are new in evaluation get a logit of -1000.

    Args:
        n_features: D.
        std: new rows start from N(0, std²) with biases of 0; None to initialise as ``nn.Linear``.
    """

    active_units: Tensor  # (C,) 1 for classes with data
    classifier: nn.Linear

    def __init__(self, n_features: int, std: float | None = None) -> None:
        super().__init__(n_features, initial_out_features=1)
        self.std, self._n_logits = std, 1
        self._start(self.classifier)

    def _start(self, linear: nn.Linear, first: int = 0) -> None:
        """Initialise the rows from ``first`` on; without ``std``, keep those of ``nn.Linear``."""
        if self.std is not None:
            nn.init.normal_(linear.weight[first:], std=self.std)
            nn.init.zeros_(linear.bias[first:])

    @torch.no_grad()
    def adaptation(self, experience: Any) -> None:
        """Add rows for the experience's classes in training, and only logits in evaluation."""
        classes = classes_of(experience)
        n = max(classes, default=0) + 1
        self._n_logits = max(self._n_logits, n)
        if not self.training:
            return
        old = self.classifier
        if n > old.out_features:
            new = nn.Linear(old.in_features, n).to(old.weight)
            self._start(new, old.out_features)
            new.weight[: old.out_features] = old.weight
            new.bias[: old.out_features] = old.bias
            self.classifier = new
            self.active_units = F.pad(self.active_units, (0, n - len(self.active_units)))
        self.active_units[classes] = 1

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Logits (B, C) of features (B, D); -1000 for classes without data."""
        logits = self._logits(x).masked_fill(self.active_units == 0, self.mask_value)
        more = max(0, self._n_logits - logits.shape[1])
        return F.pad(logits, (0, more), value=self.mask_value)

    def _logits(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Create as many rows as were saved, for torch to fill in."""
        n, old = len(state_dict[f"{prefix}active_units"]), self.classifier
        self.classifier = nn.Linear(old.in_features, n).to(old.weight)
        self.active_units = self.active_units.new_zeros(n)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class GrowingCosine(GrowingLinear):
    """Logits cos(f, W_c); the bias is not used and does not change."""

    def _logits(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.classifier.weight, dim=1).T
