"""How much memory is used, and what to do where it is too little."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch


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


_PROCESS = Path("/proc/self")  # Linux


def reset_peak(device: torch.device) -> None:
    """Begin to measure :func:`peak_memory` anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Most bytes in use since :func:`reset_peak`, of the GPU by torch or else by the process.

    None where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", (_PROCESS / "status").read_text())
        return 1024 * int(found[1]) if found else None
    return None
