"""Epochs of a tuning that can be stopped between two steps, and go on in another process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

from .._support.checks import as_value_error
from .._support.progress import step_bar
from .objective import ExperiencePass
from .tuning import Stepper, TuningReport, tune

State: TypeAlias = Callable[[], dict[str, Any]]


class Keeper(Protocol):
    """Keeps the state of a tuning while it runs, as :class:`~mist_avalanche.runs.Checkpoint`."""

    def take_up(self, strategy: Any) -> dict[str, Any]:
        """Put plugin and model back to where a tuning was stopped; its state by stage."""
        ...

    def pausing(self) -> AbstractContextManager[None]:
        """Inside, signals to stop wait for :meth:`after_step`."""
        ...

    def after_step(self, strategy: Any, stage: str, state: State) -> None:
        """Save the state when it is time to."""
        ...


def run_epochs(
    run: ExperiencePass,
    stepper: Stepper,
    epochs: int,
    *,
    stage: str,
    strategy: Any,
    keeper: Keeper | None,
    begun: dict[str, Any],
    what: str,
    total: int = 1,
    verbose: bool,
) -> TuningReport:
    """Tune with a progress bar, from the step at which an earlier process was stopped.

    Args:
        run: gives batches and losses.
        stepper: takes the steps.
        epochs: passes over the data.
        stage: name of what is tuned.
        strategy: for the keeper.
        keeper: is asked after every step; None for none.
        begun: by stage, what the keeper has kept; a stage that is taken up is removed.
        what: named in the bar and in errors.
        total: number of backbone entries, for the updated fraction.
        verbose: show the bar.
    """
    kept, loop, done = begun.pop(stage, None), None, 0
    if kept is not None:
        with as_value_error(f"The checkpoint of {what} does not fit"):
            run.load_state_dict(kept["run"])
            loop, done = kept["loop"], int(kept["loop"]["steps"])

    def after_step(state: State) -> None:
        if keeper:
            keeper.after_step(strategy, stage, lambda: {"run": run.state_dict(), "loop": state()})

    pausing = keeper.pausing() if keeper else nullcontext()
    with pausing, step_bar(what, epochs * len(run.batches), verbose, done) as advance:
        return tune(
            run.loss_of,
            run.batches,
            stepper,
            epochs,
            total=total,
            what=what,
            progress=advance,
            begun=loop,
            after_step=after_step,
        )
