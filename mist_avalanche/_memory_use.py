"""How much memory a run takes at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
