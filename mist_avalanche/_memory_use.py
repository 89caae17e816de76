"""How much memory a run takes at its peak, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class PeakMemory:
    """The most memory at once since this was made, beyond what was held then.

    Of a GPU, that of its tensors; of a CPU, that of the process. Where a system cannot count from
    here on, it is the peak since the process began.

    Args:
        device: of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._held = torch.cuda.memory_allocated(device)
            return
        with contextlib.suppress(OSError, AttributeError):  # what is free goes back to the system
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        self._held = _process_peak()

    def megabytes(self) -> float:
        """The peak in megabytes."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self._held) / 1e6
        return (_process_peak() - self._held) / 1e6


def _process_peak() -> int:
    """Bytes of the process at its peak."""
    with contextlib.suppress(OSError, StopIteration):
        lines = _STATUS.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
