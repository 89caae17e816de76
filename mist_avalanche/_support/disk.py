"""Writing: files whole or not at all, by one process at a time, on a disk that may be full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout


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


@contextmanager
def _folder_named(folder: Path) -> Iterator[None]:
    """Errors of a folder that is a file, or may not be written, say which and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            reason = f"Cannot make the folder {folder}: it, or one above it, is a file. Move that"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"Cannot write to {folder}: {error.strerror}. Let this user write there"
        else:
            raise
        raise OSError(error.errno, f"{reason}, or choose another folder.") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its name once it is whole and on the disk.

    Whatever fails or is killed before that leaves what was at ``path`` as it was. Missing folders
    are made.

    Raises:
        OSError: the disk is full, the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with full_disk_named(path.parent, path.name), _folder_named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _flush(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left of :func:`replacing`; for who alone writes there."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _release(lock: BaseFileLock) -> None:
    """Let another process have a lock, whose file goes."""
    if os.name == "posix":  # elsewhere an open file cannot be removed, and filelock removes it
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


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
            _release(lock)


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Be the only process that does something in a folder, which is made.

    Args:
        folder: the folder.
        what: who it may be, for the name of the lock and the error, such as ``run``.

    Raises:
        RuntimeError: another process does.
        OSError: the folder cannot be written to.
    """
    lock = FileLock(folder / f".{what}.lock")
    try:
        with full_disk_named(folder, f".{what}.lock"), _folder_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"Another {what} is writing to {folder}. Wait for it, or choose another --output."
        ) from None
    try:
        yield
    finally:
        _release(lock)
