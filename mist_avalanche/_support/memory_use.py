"""How much memory there is, and what to do where it is too little."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@contextlib.contextmanager
def advice(what: str, fix: str) -> Iterator[None]:
    """Where memory runs out inside, say at what and how to need less.

    Raises:
        MemoryError: in place of torch's error, which it is raised from.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"The GPU's memory is too small for {what}. {fix}") from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise MemoryError(f"The memory is too small for {what}. {fix}") from error


def available_memory() -> int:
    """Bytes: of the machine, or of a container or batch job where that has less."""
    left = [int(psutil.virtual_memory().available)]
    for folder, limit, used, reclaimable in _groups():
        with contextlib.suppress(OSError, ValueError, StopIteration):  # "max": no limit
            lines = (folder / "memory.stat").read_text().splitlines()
            cached = next(int(line.split()[1]) for line in lines if line.startswith(reclaimable))
            allowed = int((folder / limit).read_text())
            left.append(allowed - int((folder / used).read_text()) + cached)
    return max(0, min(left))


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """The control groups that this process is in, and what their files are called."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = _CGROUP.read_text().splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file ")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        else:
            continue
        group = root / name.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield folder, *names
