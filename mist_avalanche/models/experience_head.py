"""SLCA's linear classifier, of which an experience trains the rows of its own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from avalanche.models import DynamicModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import classes_of
from .backbone_with_head import UNSEEN

STD = 0.02


class ExperienceLinear(DynamicModule):
    """logits = f Wᵀ + b, with rows that are trained once and then only aligned.

    While an experience is trained, its rows are a layer of their own, so that no optimizer, weight
    decay or momentum reaches the others. New rows start from N(0, 0.02²) with biases of 0.
    Evaluation uses a copy of all rows, which an alignment may change; the next experience goes on
    from the rows themselves.

    Attributes:
        seen: (C,) True for classes that were trained.
        weight, bias: W (C, D) and b (C,), without alignment.
        aligned_weight, aligned_bias: those of evaluation.
        part: the rows that are trained; None between experiences.
    """

    seen: Tensor
    weight: Tensor
    bias: Tensor
    aligned_weight: Tensor
    aligned_bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))
        for prefix in ("", "aligned_"):
            self.register_buffer(f"{prefix}weight", torch.zeros(0, 0))
            self.register_buffer(f"{prefix}bias", torch.zeros(0))
        self.part: nn.Linear | None = None
        self._classes: list[int] = []  # of the part

    def adaptation(self, experience: Any) -> None:
        """Avalanche's hook: room for the labels of an experience, in training and evaluation."""
        more = max(classes_of(experience), default=-1) + 1 - len(self.seen)
        for name, rows in self.named_buffers(recurse=False):
            padding = (0, 0, 0, max(0, more)) if rows.ndim == 2 else (0, max(0, more))
            setattr(self, name, F.pad(rows, padding))

    @torch.no_grad()
    def begin(self, classes: Sequence[int], features: Tensor) -> None:
        """Let the rows of some classes be trained.

        Args:
            classes: labels that there is room for.
            features: (B, D), of which the rows take width, dtype and device.
        """
        if not self.weight.shape[1]:
            self.weight = features.new_zeros(len(self.seen), features.shape[1])
            self.bias = features.new_zeros(len(self.seen))
        self._classes = [*classes]
        self.part = nn.Linear(self.weight.shape[1], len(classes)).to(self.weight)
        nn.init.trunc_normal_(self.part.weight, std=STD)
        nn.init.zeros_(self.part.bias)
        comes_back = self.seen[self._classes]
        self.part.weight[comes_back] = self.weight[self._classes][comes_back]
        self.part.bias[comes_back] = self.bias[self._classes][comes_back]

    @torch.no_grad()
    def end(self) -> None:
        """The rows are trained; evaluation uses them and all others as they are."""
        if self.part is not None:
            self.weight[self._classes], self.bias[self._classes] = self.part.weight, self.part.bias
            self.seen[self._classes] = True
            self.part = None
        self.aligned_weight, self.aligned_bias = self.weight.clone(), self.bias.clone()

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Logits (B, C) of features (B, D); -1000 for classes that were never trained."""
        logits = x.new_full((len(x), len(self.seen)), UNSEEN)
        if self.seen.any():
            known = F.linear(x, self.aligned_weight, self.aligned_bias)
            logits = torch.where(self.seen, known, logits)
        if self.part is not None:
            classes = torch.tensor(self._classes, device=x.device)
            logits = logits.index_copy(1, classes, self.part(x))
        return logits

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Buffers of the size and dtype that were saved, for torch to fill in."""
        for name, rows in self.named_buffers(recurse=False):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, torch.zeros_like(saved, device=rows.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
