"""The steps of tuning: SGD on selected entries, on the projection, and as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._support.distributed import from_first, sum_over_processes
from .gradients import SelectedEntries, keep_entries, masked_gradient

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


def _finite(tensors: Sequence[Tensor | None]) -> Tensor:
    """Bool (): no NaN and no Inf, without waiting for the device."""
    found = [torch.isfinite(t).all() for t in tensors if t is not None]
    return torch.stack(found).all() if found else torch.tensor(True)


class SparseSGD:
    """SGD with momentum on the kept entries alone.

    For a kept entry: v ← 0.9 v + decay g + 5e-4 θ, θ ← θ - lr v. An entry that is dropped in a
    step, or not selected, keeps both its weight and its momentum. The projection always trains.

    Args:
        entries: the selected backbone entries, K of them.
        projection: the projection's parameters.
        lr: learning rate of the backbone.
        projection_lr: learning rate of the projection.
        drop_rate: probability that an entry rests in a step.
        generator: of the draws, on the parameters' device.
        decay: (K,) factor on the gradients, or None.
    """

    def __init__(
        self,
        entries: SelectedEntries,
        projection: Sequence[Tensor],
        *,
        lr: float,
        projection_lr: float,
        drop_rate: float,
        generator: torch.Generator,
        decay: Tensor | None = None,
    ) -> None:
        self.entries, self.projection = entries, list(projection)
        self.lr, self.drop_rate = lr, drop_rate
        self.generator, self.decay = generator, decay
        self.changed: Tensor | None = None
        self._momentum: Tensor | None = None
        self._projection_sgd = ProjectionSGD(projection, projection_lr=projection_lr)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Backbone parameters with a selected entry or not, then the projection's."""
        return [*self.entries.parameters, *self.projection]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], sound: Tensor) -> Tensor:
        """One step; nothing moves where ``sound`` is False or a gradient that counts not finite."""
        n = len(self.entries.parameters)
        g = sum_over_processes(self.entries.gather(gradients[:n]))
        sound = self._projection_sgd.step(gradients[n:], sound & torch.isfinite(g).all())
        keep = keep_entries(len(self.entries), self.drop_rate, self.generator) & sound
        theta = self.entries.gather(self.entries.parameters)
        g = masked_gradient(g, keep, self.decay)
        if self._momentum is None:
            self._momentum = torch.zeros_like(theta)
        velocity = MOMENTUM * self._momentum + g + WEIGHT_DECAY * theta
        self._momentum = torch.where(keep, velocity, self._momentum)
        moved = torch.where(keep, theta - self.lr * velocity, theta)
        self.entries.scatter(moved, self.entries.parameters)
        self.changed = (moved != theta).sum()
        return sound

    def state_dict(self) -> dict[str, Any]:
        """Momentum and random streams, not the weights."""
        return {
            "momentum": self._momentum,
            "changed": self.changed,
            "generator": self.generator.get_state(),
            "projection": self._projection_sgd.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a stepper like this one."""
        momentum, self.changed = state["momentum"], state["changed"]
        if momentum is not None and momentum.shape != (len(self.entries),):
            raise ValueError(f"momentum of {len(momentum)} entries, not of {len(self.entries)}")
        self._momentum = momentum
        self.generator.set_state(state["generator"].cpu())
        self._projection_sgd.load_state_dict(state["projection"])


class ProjectionSGD:
    """SGD on the projection alone; the backbone rests.

    Args:
        projection: the projection's parameters.
        projection_lr: learning rate.
    """

    changed: Tensor | None = None

    def __init__(self, projection: Sequence[Tensor], *, projection_lr: float) -> None:
        self.projection = list(projection)
        self._sgd = torch.optim.SGD(
            self.projection, lr=projection_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The projection's."""
        return self.projection

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], sound: Tensor) -> Tensor:
        """One step; nothing moves where ``sound`` is False or a gradient not finite."""
        gradients = [None if g is None else from_first(g) for g in gradients]
        sound = sound & _finite(gradients)
        before = [p.detach().clone() for p in self.projection]
        for p, gradient in zip(self.projection, gradients, strict=True):
            p.grad = gradient
        self._sgd.step()
        self._sgd.zero_grad()
        for p, b in zip(self.projection, before, strict=True):
            p.copy_(torch.where(sound, p, b))
        return sound

    def state_dict(self) -> dict[str, Any]:
        """Momentum, not the weights."""
        return self._sgd.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a stepper like this one."""
        self._sgd.load_state_dict(state)


class ReferenceSGD:
    """The published code's step: masked gradients, then an SGD that moves every entry.

    Weight decay and momentum act on all weights, and the projection's gradients are dropped like
    the backbone's. Arguments as for :class:`SparseSGD`.
    """

    def __init__(
        self,
        entries: SelectedEntries,
        projection: Sequence[Tensor],
        *,
        lr: float,
        projection_lr: float,
        drop_rate: float,
        generator: torch.Generator,
        decay: Tensor | None = None,
    ) -> None:
        self.entries, self.projection = entries, list(projection)
        self.drop_rate, self.generator, self.decay = drop_rate, generator, decay
        self.changed: Tensor | None = None
        self._sgd = torch.optim.SGD(
            [
                {"params": list(entries.parameters), "lr": lr},
                {"params": self.projection, "lr": projection_lr},
            ],
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )

    @property
    def parameters(self) -> Sequence[Tensor]:
        """All backbone parameters, then the projection's."""
        return [*self.entries.parameters, *self.projection]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], sound: Tensor) -> Tensor:
        """One step; nothing moves where ``sound`` is False or a gradient not finite."""
        n = len(self.entries.parameters)
        backbone = [None if g is None else sum_over_processes(g) for g in gradients[:n]]
        head = [None if g is None else from_first(g) for g in gradients[n:]]
        sound = sound & _finite([*backbone, *head])
        if not bool(sound):
            return sound
        keep = keep_entries(len(self.entries), self.drop_rate, self.generator)
        kept = masked_gradient(self.entries.gather(backbone), keep, self.decay)
        before = [p.detach().clone() for p in self.entries.parameters]
        for p in self.entries.parameters:
            p.grad = torch.zeros_like(p)
        self.entries.scatter(kept, [p.grad for p in self.entries.parameters])
        for p, g in zip(self.projection, head, strict=True):
            if g is not None:
                keep = keep_entries(g.numel(), self.drop_rate, self.generator).view(g.shape)
                p.grad = masked_gradient(g, keep, None)
        self._sgd.step()
        self._sgd.zero_grad()
        self.changed = torch.stack(
            [(p != b).sum() for p, b in zip(self.entries.parameters, before, strict=True)]
        ).sum()
        return sound

    def state_dict(self) -> dict[str, Any]:
        """Momentum and random streams, not the weights."""
        return {
            "sgd": self._sgd.state_dict(),
            "changed": self.changed,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a stepper like this one."""
        self._sgd.load_state_dict(state["sgd"])
        self.changed = state["changed"]
        self.generator.set_state(state["generator"].cpu())
