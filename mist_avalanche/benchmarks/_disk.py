"""Writing what is large: space is checked first, and a full disk is said so."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise OSError unless the folder's disk has ``size`` bytes left."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _no_space(folder, f"{what} needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")


@contextmanager
def full_disk_named(folder: Path, what: str) -> Iterator[None]:
    """Errors of a disk that is full within say what was written where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_space(folder, f"{what} did not fit") from error


def _no_space(folder: Path, reason: str) -> OSError:
    return OSError(
        errno.ENOSPC, f"No space left on the disk of {folder}: {reason}. Make room and try again."
    )
