"""How much memory a run takes at its peak, and how much there is."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def reset_peak(device: torch.device) -> None:
    """Count from here on; where a CPU's system cannot, the process counts from its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")


def peak_mb(device: torch.device) -> float:
    """Megabytes: of the GPU's tensors, or of the whole process in the CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(OSError, StopIteration):
        lines = _STATUS.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


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
