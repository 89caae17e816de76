"""What is minimised: two views of a batch, the backbone, a small head, a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import derive_seed, isolated_rng
from .losses import SupervisedInfoNCE

PROJECTION_WIDTH = 128


class Objective(ABC):
    """A head on the features, and the loss of its outputs.

    Args:
        seed: of the head's first weights.

    Attributes:
        head: linear, made once the width of the features is known; it trains along.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.head: nn.Linear | None = None

    @abstractmethod
    def prepare(self, features: Tensor, classes: list[int]) -> nn.Linear:
        """The head for an experience, from features (1, D) of one image and its classes."""

    @abstractmethod
    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of the features (2B, D) of two views, and labels (B,)."""

    def _linear(self, features: Tensor, width: int, *path: int) -> nn.Linear:
        """A new layer (D, width) in float32 or better, its weights from the seed."""
        with isolated_rng(derive_seed(self.seed, *path), torch.device("cpu")):
            linear = nn.Linear(features.shape[1], width)
        return linear.to(features.device, torch.promote_types(features.dtype, torch.float32))

    def state_dict(self) -> dict[str, Any]:
        """The head, if there is one by now."""
        return {"head": None if self.head is None else self.head.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`."""
        self.head = None
        if state["head"] is not None:
            weight = state["head"]["weight"]
            self.head = nn.Linear(*reversed(weight.shape)).to(weight)
            self.head.load_state_dict(state["head"])


class MIObjective(Objective):
    """The paper's: supervised InfoNCE through one projection, kept across experiences.

    Args:
        seed: of the projection's first weights.
        temperature: τ.
    """

    def __init__(self, seed: int, temperature: float) -> None:
        super().__init__(seed)
        self.info_nce = SupervisedInfoNCE(temperature)

    def prepare(self, features: Tensor, classes: list[int]) -> nn.Linear:
        """The projection."""
        if self.head is None:
            self.head = self._linear(features, PROJECTION_WIDTH)
        return self.head

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Supervised InfoNCE."""
        loss: Tensor = self.info_nce(project(self.head, features), labels)
        return loss


class CrossEntropyObjective(Objective):
    """For comparison: cross-entropy of a linear classifier of the experience's own classes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.classes: list[int] = []

    def prepare(self, features: Tensor, classes: list[int]) -> nn.Linear:
        """A classifier, new where the classes are."""
        if self.head is None or self.classes != classes:
            self.head = self._linear(features, len(classes), 1, *classes)
            self.classes = classes
        return self.head

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over both views."""
        classes = torch.tensor(self.classes, device=labels.device)
        targets = torch.searchsorted(classes, labels)
        return F.cross_entropy(project(self.head, features), targets.repeat(2))

    def state_dict(self) -> dict[str, Any]:
        """The classifier and its classes."""
        return {**super().state_dict(), "classes": self.classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a classifier and its classes."""
        super().load_state_dict(state)
        self.classes = [*state["classes"]]


def project(head: nn.Linear | None, features: Tensor) -> Tensor:
    """Outputs of the head in its own precision."""
    if head is None:
        raise RuntimeError("Call `prepare` first.")
    outputs: Tensor = head(features.to(head.weight.dtype))
    return outputs
