"""Writing what is large: by one process at a time, with space checked first."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time makes a file or folder; the others wait, and then find it there."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise  # else there is nothing to lock: what is there can only be read
    try:
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _no_space(folder: Path, reason: str) -> OSError:
    return OSError(
        errno.ENOSPC, f"No space left on the disk of {folder}: {reason}. Make room and try again."
    )
