"""Runs that go on where they were stopped, with the numbers of a run that never was.

A checkpoint holds the state of a strategy's model, of its optimizer by parameter names, of its
plugins and its own, each by ``state_dict`` as PyTorch has it, and those of Avalanche's clock and of
python's, numpy's and torch's random streams. Reading one executes nothing that the file names.
While :class:`~mist_avalanche.MISTPlugin` tunes, the steps that are done are saved too, every few
minutes.

What is restored is bit for bit what was saved. The run that goes on from there gives the numbers of
the uninterrupted one where its computations repeat: on a CPU with the same versions and the same
number of threads, on a GPU as far as its kernels do.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .._support.checksummed import read_newest, write_checksummed
from .._support.disk import remove_leftovers
from .._support.distributed import of_first, over_processes, own, rank, world_size
from .._support.randomness import rng_state, set_rng_state
from .._support.signals import pausing, stop, stop_asked
from ..plugin import MISTPlugin
from .config import EVERY
from .settings import computed_by, refuse_other_settings, warn_of_other
from .state import fitting, load_model, model_state, restore, state_of, unsaved

FORMAT = 3
KEPT = 2  # files of each kind
_ASK_EVERY = 20  # steps of tuning after which several processes agree on whether to save
_QUICK, _SHARE = 1.0, 0.05  # saving that takes longer (s) may take this share of the time


class NotResumableWarning(UserWarning):
    """A part of a strategy keeps state that cannot be saved."""


class Checkpoint:
    """Saves a strategy after experiences, and in the midst of MIST's tuning.

    Made right after the strategy and its benchmark, which have to be built in the same way each
    time. The strategy is restored in place: the objects it was made of remain its own.

    It works for SimpleCIL, RanPAC, Naive, and all strategies, plugins and metrics that keep no
    state of their own or have ``state_dict`` and ``load_state_dict``. What keeps state without, as
    ReplayPlugin, is named by a warning: nothing is saved, and a stopped run starts over.

    Where saving takes over a second, :meth:`save` saves only when twenty times as long has passed
    since it last did; a run that is stopped then may repeat an experience.

    Args:
        folder: for the files; it is made.
        strategy: just built.
        benchmark: whose experiences the model has grown with.
        settings: JSON-able; what is saved with others is not taken up.
        every: seconds between two files while MIST tunes; 0 for one after every step.

    Attributes:
        done: experiences that were trained.

    Example:
        >>> checkpoint = Checkpoint("checkpoints", strategy, benchmark)
        >>> accuracies = checkpoint.load([])
        >>> for experience in benchmark.train_stream[checkpoint.done :]:
        ...     strategy.train(experience)
        ...     accuracies.append(strategy.eval(benchmark.test_stream))
        ...     checkpoint.save(accuracies)
    """

    def __init__(
        self,
        folder: str | Path,
        strategy: Any,
        benchmark: Any,
        *,
        settings: Mapping[str, Any] | None = None,
        every: float = EVERY,
    ) -> None:
        self.folder, self.strategy, self.benchmark = Path(folder), strategy, benchmark
        self.settings, self.every = settings, every
        self.done = 0
        self._saved = -1  # experiences done in the last file
        self._tuning: dict[str, Any] | None = None  # to be taken up in the next experience
        self._number = self._steps = 0  # of files saved in the midst of tuning; of its steps
        self._last, self._took = time.monotonic(), 0.0  # when and how long a file was written
        self._warned = False
        plugins = [p for p in strategy.plugins if isinstance(p, MISTPlugin)]
        self._mist = plugins[0] if len(plugins) == 1 else None
        if self._mist is not None:
            self._mist.keeper = self
        if hasattr(strategy, "keeper"):
            strategy.keeper = self
        self._can_save()

    @property
    def unsaved(self) -> list[str]:
        """Classes of what keeps state that cannot be saved; empty for a run that can go on."""
        return unsaved(self.strategy)

    def load(self, default: Any = None) -> Any:
        """Restore the last state that was saved; where there is none, save the present one.

        Args:
            default: what to return, and to save, at a first start.

        Returns:
            The values given to :meth:`save`.

        Raises:
            ValueError: the run has other settings, or is of another benchmark or strategy; every
                file is damaged.
        """
        if not self._can_save():
            return default
        if rank() == 0:
            remove_leftovers(self.folder)
        files = of_first(self._files("experience"))
        if not files:
            self._save(default)
            return default
        file, saved = read_newest(files, FORMAT, "Start anew (without --resume).")
        with fitting(file):
            values, settings = json.loads(saved["values"]), json.loads(saved["settings"])
            if not isinstance(settings, dict | None):
                raise ValueError("its settings are none")
        refuse_other_settings(self.folder, settings, self.settings)
        with fitting(file):
            warn_of_other(saved["computed_by"])
            done, experiences = saved["done"], len(self.benchmark.train_stream)
            if type(done) is not int or not 0 <= done <= experiences:
                raise ValueError(f"it has {str(done)[:20]} of {experiences} experiences")
            restore(saved["strategy"], self.strategy, self.benchmark, done)
            set_rng_state(own(saved["random"]))
            self.done = self._saved = done
        self._tuning = self._newest_tuning()
        self._last = time.monotonic()
        return values

    def save(self, values: Any = None) -> None:
        """Save the strategy after an experience.

        Args:
            values: JSON-able; :meth:`load` gives them back.

        Raises:
            TypeError: ``values`` are not.
            OSError: the disk is full, the folder cannot be written to.
        """
        self.done += 1
        if not self._can_save() or of_first(self._too_soon()):
            return
        self._save(values)
        if rank() == 0:
            self._remove([*self._files("tuning"), *self._files("experience")[:-KEPT]])

    def remove(self) -> None:
        """Remove all files; for a run that is finished, or is to start anew."""
        if rank() or not self.folder.is_dir():
            return
        remove_leftovers(self.folder)
        self._remove([*self._files("tuning"), *self._files("experience")])
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _can_save(self) -> bool:
        """Whether all state can be saved; a warning, once, where it cannot."""
        names = self.unsaved
        if names and not self._warned:
            self._warned = True
            what = f"{', '.join(names)} may keep state between experiences and cannot save it"
            why = "(no state_dict and load_state_dict): a run that is stopped starts over."
            warnings.warn(f"{what} {why}", NotResumableWarning, stacklevel=3)
        return not names

    def _too_soon(self) -> bool:
        """Whether saving again would take too much of the run's time."""
        passed = time.monotonic() - self._last
        return self._took > _QUICK and self._took > _SHARE * passed

    def _save(self, values: Any) -> None:
        if self._mist is not None:
            self._mist.settle()
        began = time.monotonic()
        try:
            written = json.dumps(values)
        except TypeError as error:
            raise TypeError(f"A checkpoint keeps values that JSON can hold: {error}.") from error
        content = {
            "format": FORMAT,
            "done": self.done,
            "settings": json.dumps(self.settings, default=dict),
            "values": written,
            "computed_by": computed_by(),
            "random": over_processes(rng_state()),
        }
        if rank() == 0:
            content["strategy"] = state_of(self.strategy)
            write_checksummed(content, self.folder / f"experience-{self.done:04d}.pt")
        self._saved, self._number = self.done, 0
        self._last = time.monotonic()
        self._took = self._last - began

    # ---- In the midst of tuning: what MISTPlugin asks of its keeper ---------------------------

    def pausing(self) -> AbstractContextManager[None]:
        """Inside, signals to stop wait for :meth:`after_step`."""
        return pausing()

    def after_step(self, strategy: Any, stage: str, state: Callable[[], dict[str, Any]]) -> None:
        """Save what a tuning has done so far, when it is time to, or when the run is to stop."""
        self._steps += 1
        if world_size() > 1 and self._steps % _ASK_EVERY:
            return
        late = time.monotonic() - self._last >= self.every
        late, signal = of_first((late, stop_asked()))
        if (late or signal) and self._saved == self.done:  # else there is nothing to go on from
            self._save_tuning(strategy, stage, state())
        if signal:
            stop(signal)

    def take_up(self, strategy: Any) -> dict[str, Any]:
        """Put MIST and the model back to where a tuning was stopped; its state by stage."""
        saved, self._tuning = self._tuning, None
        if saved is None or self._mist is None:
            return {}
        if saved["stage"] == "training":
            self._tuning = saved  # for the strategy, whose turn it is next
        with fitting(self.folder / "tuning-*.pt"):
            load_model(strategy, saved["model"])
            self._mist.load_state_dict(saved["plugin"])
            return {saved["stage"]: saved["state"]}

    # ---- In the midst of training: what a strategy with an optimizer of its own asks ----------

    def before_epoch(self, strategy: Any) -> None:
        """Save what an experience's training has done so far, when it is time to."""
        masking = self._mist is not None and strategy.masks_steps  # draws of its own
        if masking or self._saved != self.done or not self._can_save():
            return
        late = time.monotonic() - self._last >= self.every
        if of_first(late and not self._too_soon()):
            state = {"strategy": state_of(strategy), "random": over_processes(rng_state())}
            self._save_tuning(strategy, "training", state)

    def go_on(self, strategy: Any) -> None:
        """Put a strategy that begins to train back to the epoch where it was stopped."""
        saved, self._tuning = self._tuning, None
        if saved is not None and saved["stage"] == "training":
            with fitting(self.folder / "tuning-*.pt"):
                restore(saved["state"]["strategy"], strategy, self.benchmark, self.done)
                set_rng_state(own(saved["state"]["random"]))

    # ---- In the midst of either ---------------------------------------------------------------

    def _save_tuning(self, strategy: Any, stage: str, state: dict[str, Any]) -> None:
        began = time.monotonic()
        self._number += 1
        if rank() == 0:
            content = {
                "format": FORMAT,
                "stage": stage,
                "state": state,
                "plugin": None if self._mist is None else self._mist.state_dict(),
                "model": model_state(strategy),
            }
            name = f"tuning-{self.done:04d}-{self._number:06d}.pt"
            write_checksummed(content, self.folder / name)
            self._remove(self._files(f"tuning-{self.done:04d}")[:-KEPT])
        self._last = time.monotonic()
        self._took = max(self._took, self._last - began)

    def _newest_tuning(self) -> dict[str, Any] | None:
        """What an earlier process has done of the next experience's tuning."""
        files = of_first(self._files(f"tuning-{self.done:04d}"))
        if not files:
            return None
        self._number = int(files[-1].stem.split("-")[-1])
        try:
            return read_newest(files, FORMAT, "Tuning starts at its first step.")[1]
        except ValueError as error:
            warnings.warn(str(error), stacklevel=3)
            return None

    # ---- Files -------------------------------------------------------------------------------

    def _files(self, kind: str) -> list[Path]:
        """Files of a kind, the newest last."""
        return sorted(self.folder.glob(f"{kind}-*.pt"))

    @staticmethod
    def _remove(files: list[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)
