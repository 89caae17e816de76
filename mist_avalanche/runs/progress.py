"""One bar for all runs of a command: images that have passed, over those that are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TypeAlias

from avalanche.training.plugins import SupervisedPlugin
from tqdm.auto import tqdm

from .._support.distributed import world_size
from .._support.progress import heard_by, hidden, images_pass
from .config import RunConfig
from .work import work_of

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
_EVERY = 0.2  # seconds between two words of a run
Tell: TypeAlias = Callable[[str, Any], None]  # a method of Bar by its name, and what it is told


class Bar:
    """How far the runs of a plan are; in a file, a line where something has ended.

    All runs are taken to have the images of the first one that knows its own.

    Args:
        plan: the settings of all runs.
        progress: False for neither bar nor lines.
        jobs: runs at a time.
    """

    def __init__(self, plan: Sequence[RunConfig], progress: bool, jobs: int = 1) -> None:
        self.plan, self.jobs = plan, jobs
        self.done = [0.0] * len(plan)
        self.due: list[float] = []  # of each run, once the images are known
        self.over: set[int] = set()
        self._lines = progress and hidden(progress)
        self._began = time.monotonic()
        name = self._name(0) if jobs == 1 else f"{len(plan)} runs, {jobs} at a time"
        self._bar = tqdm(
            total=1.0, desc=name, bar_format=_FORMAT, smoothing=0, disable=hidden(progress)
        )
        self._passed = 0.0

    def hear(self, i: int, what: str, value: Any) -> None:
        """One of the methods below, told by run i."""
        getattr(self, what)(i, value)

    def sized(self, i: int, images: tuple[list[int], list[int]]) -> None:
        """A run begins, with so many images to train on and to test in each experience."""
        if self.jobs == 1:
            self._bar.set_description_str(self._name(i), refresh=False)
            self._bar.set_postfix_str("", refresh=False)
        if not self.due:
            self.due = [float(sum(w.images for w in work_of(c, *images))) for c in self.plan]
            self._bar.reset(total=sum(self.due))
            self._began = time.monotonic()
            for j in self.over:
                self._skip(j)

    def passed(self, i: int, images: float) -> None:
        """So many more images have passed."""
        self.done[i] += images
        self._passed += images
        self._bar.update(images)

    def skipped(self, i: int, images: float) -> None:
        """So many need not pass: an earlier process had them."""
        self.done[i] += images
        if not self._bar.disable:
            self._bar.initial += images
            self._bar.n += images
            self._bar.refresh()

    def noted(self, i: int, what: str) -> None:
        """What a run does."""
        if self.jobs == 1:
            self._bar.set_postfix_str(what, refresh=False)

    def experience(self, i: int, what: str) -> None:
        """A run has ended an experience."""
        self.noted(i, what)
        if self.jobs == 1:
            self._line(f"{self._name(i)}: {what}")

    def ended(self, i: int, how: str) -> None:
        """A run has finished, or failed."""
        self.over.add(i)
        if self.due:
            self._skip(i)
        if self.jobs > 1:
            self._bar.set_postfix_str(f"{len(self.over)} ended", refresh=False)
        if self.jobs > 1 or how == "failed":
            self._line(f"{self._name(i)}: {how}")

    def close(self) -> None:
        """Leave it as it is."""
        self._bar.close()

    def _skip(self, i: int) -> None:
        self.skipped(i, self.due[i] - self.done[i])

    def _name(self, i: int) -> str:
        config = self.plan[i]
        which = f"run {i + 1} of {len(self.plan)}, " if len(self.plan) > 1 else ""
        return f"{which}{config.label}, seed {config.seed}"

    def _line(self, text: str) -> None:
        if not self._lines:
            return
        if self.due and self._passed:
            left = (sum(self.due) - sum(self.done)) / self._passed
            left *= time.monotonic() - self._began
            share = sum(self.done) / sum(self.due)
            text += f"; {share:.0%} done, {tqdm.format_interval(left)} left"
        print(text, flush=True)


@contextmanager
def bar_of(plan: Sequence[RunConfig], progress: bool, jobs: int = 1) -> Iterator[Bar]:
    """A bar while the runs of a plan last."""
    bar = Bar(plan, progress, jobs)
    try:
        yield bar
    finally:
        bar.close()


class Meter:
    """Tells a :class:`Bar` what one run does.

    An experience is never further than its due, and has all of it when it ends.

    Args:
        config: the settings of the run.
        tell: gets the words.
    """

    def __init__(self, config: RunConfig, tell: Tell) -> None:
        self.config, self.tell = config, tell
        self._due: list[float] = []  # up to the end of each experience
        self._t, self._at, self._told = 0, 0.0, 0.0
        self._spoke = self._noted = 0.0  # when

    @contextmanager
    def listening(self, train: list[int], test: list[int], done: int) -> Iterator[None]:
        """While the run lasts.

        Args:
            train: images of each experience.
            test: those of its test stream.
            done: experiences that an earlier process has ended.
        """
        self.tell("sized", (train, test))
        self._due = [*accumulate(float(w.images) for w in work_of(self.config, train, test))]
        self._t, self._at = done, self._due[done - 1] if done else 0.0
        self._told = self._at
        self.tell("skipped", self._at)
        with heard_by(self):
            yield

    def passed(self, images: int) -> None:
        """So many images have passed, here and in each process beside this one."""
        self._at = min(self._at + images * world_size(), self._due[self._t])
        if time.monotonic() > self._spoke + _EVERY:
            self._speak()

    def noted(self, what: str) -> None:
        """What is being done."""
        if time.monotonic() > self._noted + _EVERY:
            self._noted = time.monotonic()
            self.tell("noted", what)

    def ended(self, what: str) -> None:
        """An experience has ended."""
        self._at = self._due[self._t]
        self._t = min(self._t + 1, len(self._due) - 1)
        self._speak()
        self.tell("experience", what)

    def _speak(self) -> None:
        self.tell("passed", self._at - self._told)
        self._told, self._spoke = self._at, time.monotonic()


class CountImages(SupervisedPlugin):
    """Lets the images of Avalanche's own strategies be heard; ours tell by themselves."""

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """A batch of training."""
        images_pass(len(strategy.mb_x), gradient=strategy.optimizer is not None)

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """A batch of evaluation."""
        images_pass(len(strategy.mb_x), gradient=False)


def to_nobody(_what: str, _value: Any) -> None:
    """A word that nobody hears."""
