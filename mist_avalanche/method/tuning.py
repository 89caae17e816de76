"""The sparse tuning loop: SGD on the MI objective that moves a few selected entries a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .._support.checks import as_value_error
from .gradients import gradients_of

READ_EVERY = {"cuda": 20}  # steps between two looks at the losses, by kind of device; else 1


class Stepper(Protocol):
    """Turns gradients into one step of the backbone and the projection."""

    changed: Tensor | None

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What to differentiate by, in the order in which :meth:`step` takes the gradients."""
        ...

    def step(self, gradients: Sequence[Tensor | None], sound: Tensor) -> Tensor:
        """Apply one step and count the backbone entries changed in ``changed``.

        Args:
            gradients: of :attr:`parameters`.
            sound: bool (); where it is False nothing moves.

        Returns:
            Bool (): ``sound``, and the gradients that count are finite. Nothing moves otherwise.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Momentum and random streams, not the weights."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a stepper like this one."""
        ...


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
    begun: Mapping[str, Any] | None = None,
    after_step: Callable[[Callable[[], dict[str, Any]]], None] = lambda _state: None,
) -> TuningReport:
    """Minimise a loss for some epochs.

    Args:
        loss_of: scalar loss of a batch.
        batches: one epoch each time it is iterated, or what is left of the one that was begun.
        stepper: takes the steps.
        epochs: passes over the data.
        total: number of backbone entries, for the updated fraction.
        what: named in the error.
        progress: called with the epoch and the loss after every step.
        begun: a state to go on from, where an earlier call got no further.
        after_step: called after every step with a function that gives the state. The weights are
            not part of it, nor what ``batches`` and ``loss_of`` draw from.

    Raises:
        FloatingPointError: a loss or gradient that is not finite. The weights are as they were
            before that step; the message names epoch and step.
        ValueError: ``begun`` is not the state of a call like this one.
    """
    losses: list[float] = []
    running: Sequence[float] = ()  # losses of the epoch that was begun
    changed: float | Tensor = 0.0
    steps = 0
    sound: Tensor | None = None
    if begun is not None:
        with as_value_error(f"The checkpoint of {what} does not fit"):
            losses, running = [*map(float, begun["losses"])], [*map(float, begun["running"])]
            changed, steps = begun["changed"], int(begun["steps"])
            stepper.load_state_dict(begun["stepper"])

    def state() -> dict[str, Any]:
        log.read()
        found = {"losses": losses, "running": log.values, "changed": changed, "steps": steps}
        return {**found, "stepper": stepper.state_dict()}

    for epoch in range(len(losses), epochs):
        log = _Losses(f"{what}: epoch {epoch}", partial(progress, epoch), running)
        running = ()
        for batch in batches:
            loss = loss_of(batch)
            gradients = gradients_of(loss, stepper.parameters)
            finite = torch.isfinite(loss.detach())
            sound = stepper.step(gradients, finite if sound is None else sound & finite)
            log.add(loss, sound)
            if stepper.changed is not None:
                changed = changed + stepper.changed
            steps += 1
            after_step(state)
        log.read()
        losses.append(sum(log.values) / max(len(log.values), 1))
    return TuningReport(losses, steps, float(changed) / max(steps, 1) / total)


class _Losses:
    """The losses of an epoch; reading one makes a GPU wait, so they are read several at once.

    Args:
        where: the epoch, for the error.
        progress: called with every loss that was read.
        values: those of earlier steps.
    """

    def __init__(
        self, where: str, progress: Callable[[float], None], values: Sequence[float] = ()
    ) -> None:
        self.where, self.progress = where, progress
        self.values = [*values]
        self._unread: list[Tensor] = []  # (2,): the loss, and 1 where the step was taken

    def add(self, loss: Tensor, sound: Tensor) -> None:
        """Take the loss of a step, and whether it moved anything."""
        self._unread.append(torch.stack([loss.detach().float(), sound.float()]))
        if len(self._unread) >= READ_EVERY.get(loss.device.type, 1):
            self.read()

    def read(self) -> None:
        """Read what is unread; FloatingPointError at the first step that was not sound."""
        for value, taken in torch.stack(self._unread).tolist() if self._unread else []:
            if not taken:
                raise FloatingPointError(
                    f"{self.where}, step {len(self.values)}: the loss is {value}, and it or its "
                    "gradient is not finite. The weights are as they were before this step. Check "
                    "the images for NaN or Inf, or lower `lr`."
                )
            self.values.append(value)
            self.progress(value)
        self._unread = []
