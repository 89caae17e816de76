"""Checkpoints: a run goes on after the last experience that it finished.

A folder has one file, ``checkpoint.pt``, of tensors and plain data. Reading it executes nothing
(``weights_only=True``). It is written under a temporary name and renamed, so that a run that is
stopped meanwhile keeps the one before. On a CPU a resumed run ends with the numbers of one that was
never stopped, given the same versions and number of threads.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from ..plugin import MISTPlugin
from ..utils import atomic_write

FORMAT = 4
NAME = "checkpoint.pt"
_UNREADABLE = (RuntimeError, EOFError, KeyError, ValueError, TypeError, UnpicklingError)


class Checkpoint:
    """Saves a strategy after each experience, and restores it.

    Make it right after the strategy, which has ``state_dict`` and ``load_state_dict`` (all in
    :mod:`mist_avalanche.strategies` do) and is made with the same arguments each time. A MISTPlugin
    is saved along with its strategy; other plugins start anew.

    Args:
        folder: of the file; made where it is missing.
        strategy: just made.
        settings: plain data; a checkpoint with other settings is refused.

    Attributes:
        done: number of finished experiences.

    Raises:
        TypeError: the strategy has no ``state_dict`` and ``load_state_dict``.

    Example:
        >>> checkpoint = Checkpoint("results/mine", strategy)
        >>> accuracies = checkpoint.load([])
        >>> for experience in benchmark.train_stream[checkpoint.done :]:
        ...     strategy.train(experience)
        ...     accuracies.append(strategy.eval(benchmark.test_stream))
        ...     checkpoint.save(accuracies)
    """

    def __init__(
        self, folder: str | Path, strategy: Any, *, settings: Mapping[str, Any] | None = None
    ) -> None:
        if not can_resume(strategy):
            raise TypeError(f"{type(strategy).__name__} has no state_dict and load_state_dict.")
        self.file, self.strategy = Path(folder) / NAME, strategy
        self.done = 0
        plugins = (p for p in strategy.plugins if isinstance(p, MISTPlugin))
        self._mist: MISTPlugin | None = next(plugins, None)
        about = {"strategy": type(strategy).__name__, "mist": self._mist is not None}
        self.settings = as_json({**about, **(settings or {})})

    def load(self, default: Any = None) -> Any:
        """Restore the strategy.

        Returns:
            The values that :meth:`save` was given last; ``default`` where there is no checkpoint.

        Raises:
            ValueError: the checkpoint has other settings, is of an earlier version, or cannot be
                read.
        """
        if not self.file.exists():
            return default
        saved = read(self.file)
        refuse_other_settings(self.file.parent, saved["settings"], self.settings)
        self.strategy.load_state_dict(saved["strategy"])
        if self._mist is not None:
            self._mist.load_state_dict(saved["mist"])
        vars(self.strategy.clock).update(saved["clock"])
        _set_random_state(saved["random"])
        self.done = saved["done"]
        return saved["values"]

    def save(self, values: Any = None) -> None:
        """Save the strategy after an experience.

        Args:
            values: plain data that :meth:`load` gives back.

        Raises:
            TypeError: JSON cannot hold the values.
            OSError: the file cannot be written.
        """
        self.done += 1
        write(
            self.file,
            settings=self.settings,
            done=self.done,
            values=as_json(values),
            strategy=self.strategy.state_dict(),
            mist=None if self._mist is None else self._mist.state_dict(),
            clock=dict(vars(self.strategy.clock)),
            random=_random_state(),
        )


def can_resume(strategy: Any) -> bool:
    """Whether a strategy can be saved and restored. Avalanche's own cannot."""
    return hasattr(strategy, "state_dict") and hasattr(strategy, "load_state_dict")


def write(file: Path, **content: Any) -> None:
    """Write a checkpoint whole or not at all."""
    with atomic_write(file) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def read(file: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, or ValueError; with ``mmap`` tensors are read when used."""
    try:
        content: dict[str, Any] = torch.load(file, "cpu", weights_only=True, mmap=mmap)
        if content["format"] == FORMAT:
            return content
    except _UNREADABLE as error:
        raise ValueError(f"{file} cannot be read. Start anew with --overwrite.") from error
    raise ValueError(
        f"{file} was written by another version of mist_avalanche. Start anew with --overwrite."
    )


def as_json(content: Any) -> Any:
    """Plain data as it comes back from JSON, where tuples are lists."""
    return json.loads(json.dumps(content, default=dict))


def refuse_other_settings(folder: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """ValueError that names what differs between the run in a folder and the one to be resumed."""
    there, here = dict(_flat(saved)), dict(_flat(as_json(given)))
    different = [
        f"{name}: {there.get(name, 'unset')} there, {here.get(name, 'unset')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name, "unset") != here.get(name, "unset")
    ]
    if different:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(different)}). Choose another "
            "folder (--output), or replace the run (--overwrite, without --resume)."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings under names such as ``mist_args.lr``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _random_state() -> dict[str, Any]:
    """State of the global generators of Python, numpy and torch, as plain data and tensors."""
    numpy: Any = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
