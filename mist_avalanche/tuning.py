"""The sparse tuning loop: SGD on the MI objective that moves a few selected entries a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .gradients import SelectedEntries, keep_entries, masked_gradient

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


class Stepper(Protocol):
    """Turns gradients into one step of the backbone and the projection."""

    changed: Tensor | None

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What to differentiate by, in the order in which :meth:`step` takes the gradients."""
        ...

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Apply one step and count the backbone entries changed in ``changed``."""
        ...


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
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step from the gradients of :attr:`parameters`."""
        n = len(self.entries.parameters)
        self._projection_sgd.step(gradients[n:])
        keep = keep_entries(len(self.entries), self.drop_rate, self.generator)
        theta = self.entries.gather(self.entries.parameters)
        g = masked_gradient(self.entries.gather(gradients[:n]), keep, self.decay)
        if self._momentum is None:
            self._momentum = torch.zeros_like(theta)
        velocity = MOMENTUM * self._momentum + g + WEIGHT_DECAY * theta
        self._momentum = torch.where(keep, velocity, self._momentum)
        moved = torch.where(keep, theta - self.lr * velocity, theta)
        self.entries.scatter(moved, self.entries.parameters)
        self.changed = (moved != theta).sum()


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
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step from the gradients of :attr:`parameters`."""
        for p, gradient in zip(self.projection, gradients, strict=True):
            p.grad = gradient
        self._sgd.step()
        self._sgd.zero_grad()


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
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step from the gradients of :attr:`parameters`."""
        n = len(self.entries.parameters)
        keep = keep_entries(len(self.entries), self.drop_rate, self.generator)
        kept = masked_gradient(self.entries.gather(gradients[:n]), keep, self.decay)
        before = [p.detach().clone() for p in self.entries.parameters]
        for p in self.entries.parameters:
            p.grad = torch.zeros_like(p)
        self.entries.scatter(kept, [p.grad for p in self.entries.parameters])
        for p, g in zip(self.projection, gradients[n:], strict=True):
            if g is not None:
                keep = keep_entries(g.numel(), self.drop_rate, self.generator).view(g.shape)
                p.grad = masked_gradient(g, keep, None)
        self._sgd.step()
        self._sgd.zero_grad()
        self.changed = torch.stack(
            [(p != b).sum() for p, b in zip(self.entries.parameters, before, strict=True)]
        ).sum()


@dataclass(frozen=True)
class TuningReport:
    """What a tuning run did.

    Args:
        losses: mean loss of each epoch.
        steps: optimizer steps taken.
        updated_fraction: backbone entries that a step changed / all, mean over the steps.
    """

    losses: list[float]
    steps: int
    updated_fraction: float


def tune(
    loss_of: Callable[[tuple[Tensor, Tensor]], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    stepper: Stepper,
    epochs: int,
    *,
    total: int,
    what: str = "tuning",
    progress: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> TuningReport:
    """Minimise a loss for some epochs.

    Args:
        loss_of: scalar loss of a batch.
        batches: one epoch each time it is iterated.
        stepper: takes the steps.
        epochs: passes over the data.
        total: number of backbone entries, for the updated fraction.
        what: named in the error.
        progress: called with the epoch and the loss after every step.

    Raises:
        FloatingPointError: a loss or gradient that is not finite. The weights are as they were
            before that step; the message names epoch and step.
    """
    losses: list[float] = []
    changed: float | Tensor = 0.0
    steps = 0
    for epoch in range(epochs):
        sum_of_losses, n = 0.0, 0
        for batch in batches:
            loss = loss_of(batch)
            gradients = torch.autograd.grad(loss, list(stepper.parameters), allow_unused=True)
            norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
            value, norm_value = torch.stack([loss.detach().float(), norm.float()]).tolist()
            if not (abs(value) < float("inf") and norm_value < float("inf")):
                raise FloatingPointError(
                    f"{what}: the loss is {value} and its gradient has norm {norm_value} in epoch "
                    f"{epoch}, step {n}. The weights are as they were before this step. Check the "
                    "images for NaN or Inf, or lower `lr`."
                )
            stepper.step(gradients)
            if stepper.changed is not None:
                changed = changed + stepper.changed
            sum_of_losses, n, steps = sum_of_losses + value, n + 1, steps + 1
            progress(epoch, value)
        losses.append(sum_of_losses / max(n, 1))
    return TuningReport(losses, steps, float(changed) / max(steps, 1) / total)
