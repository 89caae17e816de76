"""Checkpoints: a stopped run resumes after the last experience that it finished.

``checkpoint.pt`` contains tensors and plain data; loading it executes no code. If a run is stopped
while it writes, the previous checkpoint is kept. On a CPU, a resumed run ends with the same results
as an uninterrupted one, given the same versions and number of threads.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from ..plugin import MISTPlugin
from ..utils import atomic_write
from .build import digests_of

FORMAT = 6
NAME = "checkpoint.pt"
# RanPAC and FeCAM need these large entries to learn more classes, but not to predict
FOR_TRAINING = ("head.gram", "head.cross", "head.memory.", "head.scatter")
_UNREADABLE = (RuntimeError, EOFError, KeyError, ValueError, TypeError, UnpicklingError)


class Checkpoint:
    """Saves a strategy and its MISTPlugin after each experience, and restores them.

    Create it right after the strategy, always with the same arguments for the strategy; see
    ``docs/resume.md``. The state of other plugins is not saved.

    Args:
        folder: folder of the file; created if it is missing.
        strategy: a strategy with ``state_dict`` and ``load_state_dict``, such as all in
            :mod:`mist_avalanche.strategies`; otherwise a TypeError is raised.
        benchmark: the benchmark that the strategy is trained on. A checkpoint is refused if its
            class names, images or pretrained weights differ, or its strategy, MISTPlugin or their
            arguments.
        settings: plain data, such as the arguments of your own strategy or transforms; a checkpoint
            with other settings is refused.

    Attributes:
        done: number of finished experiences.
    """

    def __init__(
        self,
        folder: str | Path,
        strategy: Any,
        benchmark: Any,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if not can_resume(strategy):
            raise TypeError(f"{type(strategy).__name__} has no state_dict and load_state_dict.")
        self.file, self.strategy = Path(folder) / NAME, strategy
        self.done = 0
        plugins = (p for p in strategy.plugins if isinstance(p, MISTPlugin))
        self._mist: MISTPlugin | None = next(plugins, None)
        options = {} if self._mist is None else vars(self._mist.options)
        about = {
            "strategy": type(strategy).__name__,
            "arguments": getattr(strategy, "arguments", {}),
            "mist": {k: v for k, v in options.items() if k not in ("view", "verbose")} or None,
        }
        digests = digests_of(benchmark, getattr(strategy, "backbone", None))
        self.settings = {**about, **(settings or {}), **digests}

    def load(self, default: Any = None) -> Any:
        """Restore the strategy, and return the values of the last :meth:`save`.

        Without a checkpoint, ``default`` is returned. Raises a ValueError if the checkpoint has
        other settings or data, comes from another version, or cannot be read.
        """
        if not self.file.exists():
            return default
        saved = read(self.file)
        refuse_other_settings(self.file.parent, saved["settings"], self.settings)
        self.strategy.load_state_dict(saved["strategy"])
        if self._mist is not None:
            self._mist.load_state_dict(_on(self.strategy.device, saved["mist"]))
        vars(self.strategy.clock).update(saved["clock"])
        _set_random_state(saved["random"])
        self.done = saved["done"]
        return saved["values"]

    def save(self, values: Any = None) -> None:
        """Save the strategy after an experience, with values that JSON can represent."""
        self.done += 1
        write(
            self.file,
            settings=self.settings,
            done=self.done,
            values=_as_json(values),
            strategy=self.strategy.state_dict(),
            mist=None if self._mist is None else self._mist.state_dict(),
            clock=dict(vars(self.strategy.clock)),
            random=_random_state(),
        )


def can_resume(strategy: Any) -> bool:
    """Whether a strategy can be saved and restored. Avalanche's own cannot."""
    return hasattr(strategy, "state_dict") and hasattr(strategy, "load_state_dict")


def write(file: Path, *, settings: Mapping[str, Any], **content: Any) -> None:
    """Write a checkpoint atomically."""
    with atomic_write(file) as temporary:
        torch.save({"format": FORMAT, "settings": _as_json(settings), **content}, temporary)


def read(file: Path) -> dict[str, Any]:
    """Read the content of a checkpoint; ValueError if that fails."""
    try:
        content: dict[str, Any] = torch.load(file, "cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"Expected format {FORMAT}.")
    except _UNREADABLE as error:
        raise ValueError(
            f"{file} is damaged, or from another version of mist_avalanche. Start again with "
            "--overwrite."
        ) from error
    return content


def refuse_other_settings(folder: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise a ValueError with the differences between a folder's run and the one to resume."""
    given = _as_json(given)
    different = [
        f"{name}: {saved.get(name)} there, {given.get(name)} here"
        for name in sorted(saved.keys() | given.keys())
        if saved.get(name) != given.get(name)
    ]
    if different:
        raise ValueError(
            f"{folder} holds a run with other settings, data or weights ({'; '.join(different)}). "
            "Choose another folder (--output), or replace the run (--overwrite, without --resume)."
        )


def _on(device: torch.device, content: Any) -> Any:
    """Nested mappings with all tensors on a device."""
    if isinstance(content, Mapping):
        return {name: _on(device, value) for name, value in content.items()}
    return content.to(device) if isinstance(content, torch.Tensor) else content


def _as_json(content: Any) -> Any:
    """Plain data as JSON returns it, with lists for tuples."""
    return json.loads(json.dumps(content, default=dict))


def _random_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and PyTorch, as plain data and tensors."""
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
