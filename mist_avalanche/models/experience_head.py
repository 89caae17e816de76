"""A linear classifier of which only an experience's classes train, and that can be aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import UNSEEN
from .linear_head import GrowingLinear

STD = 0.02


class ExperienceLinear(GrowingLinear):
    """logits = f Wᵀ + b, of which an experience trains the rows of its own classes.

    New rows start from a normal distribution of standard deviation 0.02, cut at ±2, with biases
    of 0. While an experience trains, its rows are a layer of their own, :attr:`part`, so that no
    optimizer, weight decay or momentum reaches the others. Once it is over, an alignment may train
    all rows for evaluation; :meth:`recall` puts them back to where they were. The width D is
    that of :meth:`widen`, before the first class, or of a loaded state.

    Attributes:
        part: an ``nn.Linear`` of the rows that train; None between experiences.
        before_weight, before_bias: (C, D) and (C,) before the alignment; empty where there was
            none.
    """

    before_weight: Tensor
    before_bias: Tensor

    def __init__(self) -> None:
        super().__init__(1, STD)
        self.part: nn.Linear | None = None
        self.register_buffer("before_weight", torch.zeros(0, 1))
        self.register_buffer("before_bias", torch.zeros(0))
        self._own: list[int] = []

    def _start(self, linear: nn.Linear, first: int) -> None:
        nn.init.trunc_normal_(linear.weight[first:], std=STD)
        nn.init.zeros_(linear.bias[first:])

    def widen(self, n_features: int) -> None:
        """Take features of width D, while there is no class yet."""
        if not self.active_units.any() and n_features != self.classifier.in_features:
            rows = self.classifier
            self.classifier = nn.Linear(n_features, rows.out_features).to(rows.weight)
            with torch.no_grad():
                self._start(self.classifier, 0)

    @torch.no_grad()
    def begin(self, classes: Sequence[int]) -> None:
        """Let the rows of some classes train, which there are already."""
        self.end()
        rows = self.classifier
        self.part = nn.Linear(rows.in_features, len(classes)).to(rows.weight)
        self._own = list(classes)
        self.part.weight.copy_(rows.weight[self._own])
        self.part.bias.copy_(rows.bias[self._own])

    def go_on(self, classes: Sequence[int]) -> None:
        """Of which classes the rows are that train, where a loaded state has such."""
        if self.part is not None:
            self._own = list(classes)

    @torch.no_grad()
    def end(self) -> None:
        """Put the rows that have trained to the others."""
        if self.part is not None:
            self.classifier.weight[self._own] = self.part.weight
            self.classifier.bias[self._own] = self.part.bias
            self.part, self._own = None, []

    @torch.no_grad()
    def remember(self) -> None:
        """Keep the rows as they are, for :meth:`recall`."""
        self.before_weight = self.classifier.weight.detach().clone()
        self.before_bias = self.classifier.bias.detach().clone()

    @torch.no_grad()
    def recall(self) -> None:
        """Put the rows back to where they were at :meth:`remember`, if there was one."""
        n = len(self.before_weight)
        if n:
            self.classifier.weight[:n] = self.before_weight
            self.classifier.bias[:n] = self.before_bias
            self.before_weight, self.before_bias = self.before_weight[:0], self.before_bias[:0]

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Logits (B, C) of features (B, D); -1000 for classes without data."""
        if not self.active_units.any():  # D may not be known yet
            return x.new_full((len(x), max(self._room, len(self.active_units))), UNSEEN)
        if self.part is None:
            return super().forward(x)
        rows = self.classifier
        logits = F.linear(x, rows.weight.detach(), rows.bias.detach())
        logits = logits.masked_fill(self.active_units == 0, UNSEEN)
        own = torch.tensor(self._own, device=x.device)
        logits = logits.index_copy(1, own, self.part(x))
        more = self._room - logits.shape[1]
        return F.pad(logits, (0, more), value=UNSEEN) if more > 0 else logits

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """The width and rows that the state has, and an alignment or rows that train if it does."""
        weight = state_dict.get(f"{prefix}classifier.weight")
        if weight is not None and weight.shape != self.classifier.weight.shape:
            self.classifier = nn.Linear(*reversed(weight.shape)).to(self.classifier.weight)
            self.active_units = self.active_units.new_zeros(len(weight))
        part = state_dict.get(f"{prefix}part.weight")
        if weight is not None:  # else the state is of other parts of a model
            self.part = None
        if part is not None:
            self.part = nn.Linear(*reversed(part.shape)).to(self.classifier.weight)
        for name in ("before_weight", "before_bias"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, getattr(self, name).new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
