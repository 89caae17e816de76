"""Objectives on an experience: two views, backbone, a small head, loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .._support.checks import classes_of
from .._support.distributed import gather_rows, join_rows, over_processes, own, share, world_size
from .._support.randomness import derive_seed, isolated_rng, rng_state, set_rng_state
from ..models.features import FeatureExtractor, in_mode
from ..models.forward import Forward
from .batches import Batches
from .losses import SupervisedInfoNCE
from .views import View

PROJECTION_WIDTH = 128
_HEAD = 3  # purpose of random numbers; the plugin has others


@dataclass(frozen=True)
class ExperiencePass:
    """What scoring and tuning work with: batches, and the scalar loss of one.

    ``head`` is what the objective puts on the features; it trains along. ``views`` is what second
    views are drawn from.
    """

    batches: Batches
    loss_of: Callable[[tuple[Tensor, Tensor]], Tensor]
    head: nn.Linear
    views: torch.Generator

    def state_dict(self) -> dict[str, Any]:
        """All random streams within the pass, between two steps."""
        return {
            "batches": self.batches.state_dict(),
            "views": self.views.get_state(),
            "global": over_processes(rng_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the streams of a pass like this one."""
        self.batches.load_state_dict(state["batches"])
        self.views.set_state(state["views"])
        set_rng_state(own(state["global"]))


class Objective(ABC):
    """A loss on the features of a batch and its second view.

    Args:
        batch_size: images a batch, each in two views.
        view: the second view, ``f(batch, generator)``.
        seed: of the head's first weights.
        forward: how the backbone is run.
    """

    def __init__(self, batch_size: int, view: View, seed: int, forward: Forward) -> None:
        self.batch_size, self.view, self.seed = batch_size, view, seed
        self.forward = forward

    @abstractmethod
    def head_for(self, example: Tensor, classes: list[int]) -> nn.Linear:
        """The linear layer on features like ``example`` (1, D), for an experience's classes."""

    @abstractmethod
    def loss(self, z: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
        """Scalar loss of the head's outputs z (2B, P) for labels (B,)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it has learned: its head, if there is one by now."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`; a head that is missing is made."""

    @contextmanager
    def on(
        self,
        strategy: Any,
        extract: FeatureExtractor,
        seed: int,
        num_workers: int = 0,
        *,
        training: bool,
        head_only: bool = False,
    ) -> Iterator[ExperiencePass]:
        """Bound to a strategy's experience, with the host's mode and random streams left alone.

        Args:
            strategy: in training on the experience.
            extract: gives the features.
            seed: of order, transforms and views.
            num_workers: of the data loader; it changes no number.
            training: mode of the model inside.
            head_only: losses have gradients with regard to the head alone.
        """
        if training:
            _check_processes(strategy.model)
        device: torch.device = strategy.device
        views = torch.Generator().manual_seed(seed)
        dataset = strategy.experience.dataset.train()
        classes = classes_of(strategy.experience)
        batches = Batches(dataset, self.batch_size, seed, device, num_workers)

        with in_mode(strategy.model, training=training), isolated_rng(seed, device):
            x = batches.loader.dataset[(0, 0)][0].unsqueeze(0).to(device)
            with in_mode(extract.model, training=False), torch.no_grad():
                head = self.head_for(extract(x), classes)

            def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
                x, y = batch  # of several processes, this one's share
                n = len(y)
                whole = gather_rows(x[:n])
                second = self.view(whole, views)[share(len(whole)).start :][: len(x)]
                if not n:
                    second = x
                with torch.set_grad_enabled(not head_only):
                    features = self.forward(extract, torch.cat([x, second]))
                both = torch.split(features, len(x))
                joined = torch.cat([join_rows(view[:n]) for view in both])  # (2B, D)
                return self.loss(head(joined.to(head.weight.dtype)), gather_rows(y), classes)

            with torch.enable_grad():
                yield ExperiencePass(batches, loss_of, head, views)

    def _linear(self, example: Tensor, width: int, *path: int) -> nn.Linear:
        """A new layer (D, width), its weights from the seed and a path of integers."""
        with isolated_rng(derive_seed(self.seed, _HEAD, *path), torch.device("cpu")):
            linear = nn.Linear(example.shape[1], width)
        dtype = torch.promote_types(example.dtype, torch.float32)
        return linear.to(example.device, dtype)


def _linear_of(state: Mapping[str, Any] | None) -> nn.Linear | None:
    """A layer of the sizes, dtype and device of a saved one."""
    if state is None:
        return None
    weight = state["weight"]
    width, n_features = weight.shape
    layer = nn.Linear(n_features, width, device="meta", dtype=weight.dtype)
    layer.to_empty(device=weight.device)
    layer.load_state_dict(state)
    return layer


def _check_processes(model: nn.Module) -> None:
    """ValueError where processes would normalise their own images instead of the whole batch."""
    alone = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    ]
    if alone and world_size() > 1:
        raise ValueError(
            f"BatchNorm ({alone[0]!r}) would see each process's share of a batch alone. Convert "
            "the model with torch.nn.SyncBatchNorm.convert_sync_batchnorm, or use one process."
        )


class MIObjective(Objective):
    """The paper's: supervised InfoNCE through one projection, kept across experiences.

    Args:
        temperature: τ.
        batch_size, view, seed, forward: as for :class:`Objective`.
    """

    def __init__(
        self, temperature: float, batch_size: int, view: View, seed: int, forward: Forward
    ) -> None:
        super().__init__(batch_size, view, seed, forward)
        self.info_nce = SupervisedInfoNCE(temperature)
        self.projection: nn.Linear | None = None

    def head_for(self, example: Tensor, classes: list[int]) -> nn.Linear:
        """The projection, made when the width of the features is known."""
        if self.projection is None:
            self.projection = self._linear(example, PROJECTION_WIDTH)
        return self.projection

    def state_dict(self) -> dict[str, Any]:
        """The projection."""
        return {"projection": None if self.projection is None else self.projection.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a projection."""
        self.projection = _linear_of(state["projection"])

    def loss(self, z: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
        """Supervised InfoNCE."""
        loss: Tensor = self.info_nce(z, labels)
        return loss


class CrossEntropyObjective(Objective):
    """For comparison: cross-entropy of a linear classifier of the experience's own classes.

    The classifier is new where the classes are, and the same while it is scored and tuned on.
    """

    def __init__(self, batch_size: int, view: View, seed: int, forward: Forward) -> None:
        super().__init__(batch_size, view, seed, forward)
        self.classifier: nn.Linear | None = None
        self._classes: list[int] = []

    def head_for(self, example: Tensor, classes: list[int]) -> nn.Linear:
        """A classifier of these classes."""
        if self.classifier is None or self._classes != classes:
            self.classifier = self._linear(example, len(classes), 1, *classes)
            self._classes = classes
        return self.classifier

    def state_dict(self) -> dict[str, Any]:
        """The classifier and its classes."""
        classifier = None if self.classifier is None else self.classifier.state_dict()
        return {"classifier": classifier, "classes": self._classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a classifier and its classes."""
        self.classifier, self._classes = _linear_of(state["classifier"]), [*state["classes"]]

    def loss(self, z: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
        """Mean cross-entropy over both views."""
        targets = torch.searchsorted(torch.tensor(classes, device=labels.device), labels)
        return F.cross_entropy(z, targets.repeat(2))
