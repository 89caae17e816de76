"""Utilities that are unrelated to learning: checks, random numbers, modes, files, warnings."""

import difflib
import hashlib
import os
import random
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

T = TypeVar("T", bound=str)


def check_rate(name: str, value: float, interval: str) -> float:
    """Return a number in an interval, written like ``"[0, 1)"``, or raise a ValueError."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")  # outside every interval
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"Expected `{name}` in {interval}, got {value!r}.")
    return number


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Return an integer of at least ``minimum``, or raise a ValueError."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or value % 1 != 0 or value < minimum:
        raise ValueError(f"Expected an integer `{name}` of at least {minimum}, got {value!r}.")
    return int(value)


def check_choice(name: str, value: T, choices: Collection[str]) -> T:
    """Return a string that is one of the choices, or raise a ValueError."""
    if value not in choices:
        shown = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"Expected `{name}` to be {shown}, got {value!r}.")
    return value


def nearest_first(name: str, known: Collection[str]) -> str:
    """Known names, separated by commas; those most similar to ``name`` come first."""
    return ", ".join(difflib.get_close_matches(name, known, max(1, len(known)), 0.0))


def classes_of(experience: Any) -> list[int]:
    """Sorted labels of an experience, from its dataset's targets."""
    dataset = experience.dataset
    targets = getattr(dataset, "targets", None)
    if targets is None:  # not every Avalanche benchmark has them
        targets = [y for _, y, *_ in dataset.eval()]
    return sorted({int(y) for y in getattr(targets, "uniques", targets)})


def derive_seed(seed: int, *path: int) -> int:
    """Derive a seed for one purpose; different paths of integers give independent seeds."""
    state = np.random.SeedSequence([seed % 2**63, *path]).generate_state(1, np.uint64)
    return int(state[0]) % 2**63


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and PyTorch inside, and restore them after."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set training or evaluation mode inside, and restore every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def state_hash(module: nn.Module, without: str | None = None) -> bytes:
    """Hash of parameters and buffers: names, dtypes, shapes, bits; no names with ``without``."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if without is not None and without in name:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat: Any = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.digest()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary file to write to, which is renamed to ``path`` once it is complete.

    If anything fails before that, the file at ``path`` is not changed. Missing folders are created.
    An OSError names the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # with the usual permissions, which not every library sets
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def hide_avalanche_warnings() -> None:
    """Hide warnings raised in Avalanche's own files and in the solvers that it imports.

    A filter is not enough: Avalanche's ``deprecated`` decorator inserts another one at every call.
    """
    show, hidden = warnings.showwarning, {"avalanche", "qpsolvers"}

    def showwarning(message: Any, category: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        if not hidden & {*Path(filename).parts}:
            show(message, category, filename, *args, **kwargs)

    warnings.showwarning = showwarning


def is_plain(value: Any) -> bool:
    """Whether JSON can represent a value."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.values() if isinstance(value, Mapping) else value
        return all(map(is_plain, parts))
    return isinstance(value, bool | int | float | str | None)


def callers_level() -> int:
    """The ``stacklevel`` of the first frame outside this package and Avalanche.

    Avalanche wraps constructors, so the number of frames is not fixed.
    """
    level, frame = 1, sys._getframe(1)
    packages = {"mist_avalanche", "avalanche"}
    while frame.f_back and str(frame.f_globals.get("__name__", "")).split(".")[0] in packages:
        level, frame = level + 1, frame.f_back
    return level
