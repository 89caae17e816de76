"""SLCA's linear classifier: each experience trains the rows of its own classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .statistics_head import StatisticsHead


class ExperienceLinear(StatisticsHead):
    """logits = f Wᵀ + b, with rows that are trained once and then only aligned.

    During an experience, the rows of its classes form a separate layer, so that optimizer, weight
    decay and momentum do not affect the others. New rows start from N(0, 0.02²) with biases of 0.
    Evaluation uses a copy of all rows, which an alignment may change; the next experience starts
    from the original rows. ``counts`` is the number of experiences that trained each class.
    """

    class_axes: Mapping[str, int] = dict.fromkeys(
        ("weight", "bias", "aligned_weight", "aligned_bias"), 0
    )
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    aligned_weight: Tensor  # used in evaluation
    aligned_bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        for prefix in ("", "aligned_"):
            self.register_buffer(f"{prefix}weight", torch.zeros(0, 0))
            self.register_buffer(f"{prefix}bias", torch.zeros(0))
        self.part: Any = None  # nn.Linear with the rows that are trained
        self._classes: list[int] = []  # of these rows

    @torch.no_grad()
    def begin(self, classes: Sequence[int], n_features: int) -> None:
        """Create trainable rows on D features for some classes; call :meth:`grow` first."""
        if not self.weight.shape[1]:
            self.weight = F.pad(self.weight, (0, n_features))
        self._classes = [*classes]
        self.part = nn.Linear(n_features, len(classes)).to(self.weight)
        nn.init.trunc_normal_(self.part.weight, std=0.02)
        nn.init.zeros_(self.part.bias)
        comes_back = self.seen[self._classes]
        self.part.weight[comes_back] = self.weight[self._classes][comes_back]
        self.part.bias[comes_back] = self.bias[self._classes][comes_back]

    @torch.no_grad()
    def end(self) -> None:
        """Store the rows that are being trained, if any, and use all rows in evaluation."""
        if self.part is None:
            return
        self.weight[self._classes], self.bias[self._classes] = self.part.weight, self.part.bias
        self.counts[self._classes] += 1
        self.part = None
        self.aligned_weight, self.aligned_bias = self.weight.clone(), self.bias.clone()

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D); -1000 for classes that were never trained."""
        logits = super().forward(features)
        if self.part is not None:
            classes = torch.tensor(self._classes, device=features.device)
            logits = logits.index_copy(1, classes, self.part(features))
        return logits

    def _logits(self, features: Tensor) -> Tensor:
        return F.linear(features, self.aligned_weight, self.aligned_bias)
