"""Runs that go on where they were stopped, with the numbers of a run that never was.

A checkpoint holds all that a strategy, its plugins, its model and its optimizer have, and the
states of python's, numpy's and torch's random streams. Data, transforms, functions and loggers are
not in it: they come from the benchmark and the strategy that the new process builds. Reading one
executes nothing that the file names. While :class:`~mist_avalanche.MISTPlugin` tunes, the steps
that are done are saved too, every few minutes.

What is restored is bit for bit what was saved. The run that goes on from there gives the numbers of
the uninterrupted one where its computations repeat: on a CPU with the same versions and the same
number of threads, on a GPU as far as its kernels do.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ._batches import rng_state, set_rng_state
from ._checksummed import DamagedFileError, read_checksummed, write_checksummed
from ._disk import remove_leftovers
from ._graph import flatten
from ._live import restore
from ._signals import pausing, stop, stop_asked
from ._surroundings import Surroundings
from .distributed import of_first, over_processes, own, rank, world_size
from .plugin import MISTPlugin

FORMAT = 1
KEPT = 2  # files of each kind
EVERY = 300.0  # seconds
_ASK_EVERY = 20  # steps of tuning after which several processes agree on whether to save


class Checkpoint:
    """Saves a strategy after experiences, and in the midst of MIST's tuning.

    Made right after the strategy and its benchmark, which have to be built in the same way each
    time. The strategy is restored in place: the objects it was made of remain its own.

    It works for Avalanche's strategies and for one's own that keep their state in attributes.
    Open files, locks and the like cannot be saved; :meth:`save` says where they are. An endless
    loader of Avalanche's that is in use between two experiences, as FeatureReplay's after an
    evaluation, starts anew with every :meth:`save`, in the running strategy too.

    Args:
        folder: for the files; it is made.
        strategy: just built.
        benchmark: whose data the strategy may keep references to.
        settings: JSON-able; what is saved with others is not taken up.
        every: seconds between two files while MIST tunes; 0 for one after every step.

    Attributes:
        done: experiences that were trained and saved.

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
        self._tuning: dict[str, Any] | None = None  # to be taken up in the next experience
        self._number = 0  # of the files saved in the midst of tuning
        self._steps = 0
        self._last = time.monotonic()
        plugins = [p for p in strategy.plugins if isinstance(p, MISTPlugin)]
        self._mist = plugins[0] if len(plugins) == 1 else None
        if self._mist is not None:
            self._mist.keeper = self
        self._around = Surroundings(strategy, benchmark)

    def load(self, default: Any = None) -> Any:
        """Restore the last state that was saved; where there is none, save the present one.

        Args:
            default: what to return, and to save, at a first start.

        Returns:
            The values given to :meth:`save`.

        Raises:
            ValueError: the run has other settings, or is of another benchmark or strategy; every
                file is damaged.
            TypeError: the strategy has something that cannot be saved; it is named.
        """
        if rank() == 0:
            remove_leftovers(self.folder)
        files = of_first(self._files("experience"))
        if not files:
            self._save(default)
            return default
        file, saved = self._newest(files, "Start anew (without --resume).")
        with _fitting(file):
            values, settings = json.loads(saved["values"]), json.loads(saved["settings"])
            if not isinstance(settings, dict | None):
                raise ValueError("its settings are none")
        refuse_other_settings(self.folder, settings, self.settings)
        with _fitting(file):
            _warn_of_other(saved["computed_by"])
            done, experiences = saved["done"], self.benchmark.train_stream
            if type(done) is not int or not 0 <= done <= len(experiences):
                raise ValueError(f"it has {str(done)[:20]} of {len(experiences)} experiences")
            for experience in experiences[:done]:
                _ = experience.dataset  # which some benchmarks make when it is asked for
            self._around.look_at(self.benchmark)
            restore(saved["strategy"], self.strategy, self._around)
            if self._mist is not None and not any(p is self._mist for p in self.strategy.plugins):
                raise ValueError("its plugins are others, or in another order")
            RemovableHandle.next_id = max(RemovableHandle.next_id, int(saved["hooks"]))
            set_rng_state(own(saved["random"]))
            self.done = done
        self._tuning = self._newest_tuning()
        self._last = time.monotonic()
        return values

    def save(self, values: Any = None) -> None:
        """Save the strategy after an experience.

        Args:
            values: JSON-able; :meth:`load` gives them back.

        Raises:
            TypeError: the strategy has something that cannot be saved, or ``values`` has.
            OSError: the disk is full, the folder cannot be written to.
        """
        self.done += 1
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

    def _save(self, values: Any) -> None:
        if self._mist is not None:
            self._mist.settle()
        self._around.look_at(self.benchmark)
        try:
            written = json.dumps(values)
        except TypeError as error:
            raise TypeError(f"A checkpoint keeps values that JSON can hold: {error}.") from error
        content = {
            "format": FORMAT,
            "done": self.done,
            "settings": json.dumps(self.settings, default=dict),
            "values": written,
            "computed_by": _computed_by(),
            "random": over_processes(rng_state()),
            "hooks": RemovableHandle.next_id,  # those that come later get other numbers
            "strategy": flatten(self.strategy, self._around),
        }
        if rank() == 0:
            write_checksummed(content, self.folder / f"experience-{self.done:04d}.pt")
        self._last, self._number = time.monotonic(), 0

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
        if late or signal:
            self._save_tuning(strategy, stage, state())
        if signal:
            stop(signal)

    def take_up(self, strategy: Any) -> dict[str, Any]:
        """Put MIST and the model back to where a tuning was stopped; its state by stage."""
        saved, self._tuning = self._tuning, None
        if saved is None:
            return {}
        with _fitting(self.folder / "tuning-*.pt"):
            restore(saved["plugin"], self._mist, self._around)
            with torch.no_grad():
                for name, tensor in _tensors(strategy.model).items():
                    if tensor.shape != saved["model"][name].shape:
                        raise ValueError(f"{name} has another shape")
                    tensor.copy_(saved["model"][name])
            return {saved["stage"]: saved["state"]}

    def _save_tuning(self, strategy: Any, stage: str, state: dict[str, Any]) -> None:
        content = {
            "format": FORMAT,
            "stage": stage,
            "state": state,
            "plugin": flatten(self._mist, self._around),
            "model": _tensors(strategy.model),
        }
        self._number += 1
        if rank() == 0:
            name = f"tuning-{self.done:04d}-{self._number:06d}.pt"
            write_checksummed(content, self.folder / name)
            self._remove(self._files(f"tuning-{self.done:04d}")[:-KEPT])
        self._last = time.monotonic()

    def _newest_tuning(self) -> dict[str, Any] | None:
        """What an earlier process has done of the next experience's tuning."""
        files = of_first(self._files(f"tuning-{self.done:04d}"))
        if not files:
            return None
        self._number = int(files[-1].stem.split("-")[-1])
        try:
            return self._newest(files, "Tuning starts at its first step.")[1]
        except ValueError as error:
            warnings.warn(str(error), stacklevel=3)
            return None

    # ---- Files -------------------------------------------------------------------------------

    def _files(self, kind: str) -> list[Path]:
        """Files of a kind, the newest last."""
        return sorted(self.folder.glob(f"{kind}-*.pt"))

    def _newest(self, files: list[Path], otherwise: str) -> tuple[Path, dict[str, Any]]:
        """The newest file that is whole, and its content; what follows where there is none."""
        for i, file in enumerate(reversed(files)):
            try:
                content = read_checksummed(file)
            except DamagedFileError:
                continue
            if i:
                names = ", ".join(str(f) for f in files[-i:])
                warnings.warn(f"Damaged: {names}. Going on from {file.name}.", stacklevel=3)
            version = content.get("format") if isinstance(content, dict) else None
            if type(version) is not int or version != FORMAT:
                raise ValueError(f"{file} is of another version of mist_avalanche. {otherwise}")
            return file, content
        raise ValueError(f"Every checkpoint is damaged: {', '.join(map(str, files))}. {otherwise}")

    @staticmethod
    def _remove(files: list[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)


class OtherSettingsError(ValueError):
    """An earlier run had other settings."""


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@contextmanager
def _fitting(file: Path) -> Iterator[None]:
    """Whatever a file that was not written for this strategy causes, as a ValueError."""
    try:
        yield
    except Exception as error:
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{file} does not fit this strategy and benchmark ({what}{str(error)[:300]}). Build "
            "them as in the run that saved it, or start anew."
        ) from error


def _computed_by() -> dict[str, Any]:
    """What a number's last bits depend on."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def _warn_of_other(saved: Mapping[str, Any]) -> None:
    different = {k: v for k, v in _computed_by().items() if saved[k] != v}
    if different:
        was = ", ".join(f"{k} {saved[k]}, now {v}" for k, v in different.items())
        warnings.warn(
            f"The run was computed with {was}: it goes on with numbers that may differ in their "
            "last bits.",
            stacklevel=4,
        )


def refuse_other_settings(
    folder: Path, saved: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None
) -> None:
    """An error that names what differs between the settings of an earlier run and of this one."""
    there = _leaves(saved or {})
    here = _leaves(json.loads(json.dumps(wanted, default=dict)) or {})
    different = [
        f"{name}: {there.get(name, 'nothing')!s:.60} there, {here.get(name, 'nothing')!s:.60} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if different:
        more = f" and {len(different) - 6} more" if len(different) > 6 else ""
        raise OtherSettingsError(
            f"{folder} holds a run with other settings ({'; '.join(different[:6])}{more}). Choose "
            "another folder (--output), or start anew (without --resume)."
        )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings as ``outer.inner``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.update(_leaves(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
