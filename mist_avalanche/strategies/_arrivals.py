"""Which experience the images that come are of, and when all of it has come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from avalanche.training.utils import _at_task_boundary


def whole_of(experience: Any) -> Any:
    """An experience, or the one that an online part with known boundaries comes from."""
    if isinstance(experience, OnlineCLExperience) and experience.access_task_boundaries:
        return experience.origin_experience
    return experience


class Arrivals:
    """An experience that comes whole, or in the parts of an online stream.

    Parts whose boundaries may be known are of the experience that they come from. It begins with
    the part that is marked as its first, or where none goes on. It is over with the part that is
    marked as its last, or once all its images have come: Avalanche marks no last part where the
    images fill all parts, and drops the last images where it is told to.

    Attributes:
        whole: the experience that goes on; None between two, and after a state was loaded until
            a part has come.
        arrived: images of it so far; None between two.
    """

    def __init__(self, arrived: int | None = None) -> None:
        self.whole: Any = None
        self.arrived = arrived

    def begins(self, part: Any) -> bool:
        """Whether an experience begins with a part."""
        return self.arrived is None or bool(_at_task_boundary(part, before=True))

    def begin(self, part: Any) -> None:
        """A part is the first of an experience."""
        self.whole, self.arrived = whole_of(part), 0

    def add(self, part: Any) -> bool:
        """A part was trained on; True where the experience is over with it."""
        self.whole, self.arrived = whole_of(part), (self.arrived or 0) + len(part.dataset)
        marked = bool(_at_task_boundary(part, before=False))
        return marked or self.arrived >= len(self.whole.dataset)

    def end(self) -> None:
        """None goes on."""
        self.whole = self.arrived = None


class OwnOptimizer(ABC):
    """A strategy that makes an optimizer for each experience, and goes on with it in all parts.

    Attributes:
        keeper: a :class:`~mist_avalanche.runs.Checkpoint`, which is asked before every epoch.
    """

    optimizer_in_state = True  # a checkpoint need not have it
    keeper: Any = None
    optimizer: Any
    clock: Any
    train_epochs: int
    _stop_training: bool
    _arrivals: Arrivals
    _classes: list[int]  # of the present experience

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        """Avalanche's loop over epochs, from where a run was stopped."""
        loop: Any = self
        if self.keeper is not None:
            arrivals = self._arrivals
            self.keeper.go_on(self)
            self._arrivals = arrivals  # of the images that are here
        while self.clock.train_exp_epochs < self.train_epochs:
            if self.keeper is not None:
                self.keeper.before_epoch(self)
            loop._before_training_epoch(**kwargs)
            if self._stop_training:
                self._stop_training = False
                break
            loop.training_epoch(**kwargs)
            loop._after_training_epoch(**kwargs)

    @abstractmethod
    def new_optimizer(self) -> torch.optim.Optimizer:
        """For what trains, which is there already."""

    def part_state(self) -> dict[str, Any] | None:
        """How far an experience is; None between two."""
        if self.optimizer is None:
            return None
        return {
            "arrived": self._arrivals.arrived,
            "classes": self._classes,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_part_state(self, state: Mapping[str, Any] | None) -> None:
        """Go on within an experience, or between two."""
        self._arrivals, self.optimizer = Arrivals(), None
        if state is not None:
            self._arrivals = Arrivals(int(state["arrived"]))
            self._classes = [*map(int, state["classes"])]
            self.optimizer = self.new_optimizer()
            self.optimizer.load_state_dict(state["optimizer"])
