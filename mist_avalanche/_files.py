"""Files that are whole or not there, and say so: checksums, and one writer at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_model
from torch import nn

from .benchmarks._disk import full_disk_named

_MARK = b"mist-avalanche-1"  # after the checksum, at the end of a whole file
_BLOCK = 2**22


class DamagedFileError(ValueError):
    """A file that is not what was written."""


class _Hashing:
    """A file that is written to and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, part: Any) -> int:
        """Append bytes."""
        self.digest.update(part)
        return self.file.write(part)

    def flush(self) -> None:
        """As of the file."""
        self.file.flush()


def write_whole(content: Any, path: Path) -> None:
    """Save what ``torch.load(weights_only=True)`` can read, with a checksum at the end.

    The file is on the disk before it gets its name: it is there whole, or as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with full_disk_named(path.parent, path.name), open(temporary, "wb") as file:
            hashing = _Hashing(file)
            torch.save(content, hashing)
            file.write(hashing.digest.digest() + _MARK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Let a file's new name survive the machine; where folders cannot be opened, as they are."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path) -> Any:
    """What :func:`write_whole` has written.

    Raises:
        DamagedFileError: it is not what was written.
    """
    size = path.stat().st_size - 32 - len(_MARK)
    with open(path, "rb") as file:
        digest, left = hashlib.sha256(), size
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
        if size <= 0 or file.read() != digest.digest() + _MARK:
            raise DamagedFileError(f"{path} is damaged.")
        file.seek(0)
        return torch.load(
            file, weights_only=True, map_location=None if torch.cuda.is_available() else "cpu"
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted writer has left."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def write_model(model: nn.Module, path: Path) -> None:
    """Parameters and buffers as safetensors, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with full_disk_named(path.parent, path.name):
        save_model(model, str(temporary))
    os.replace(temporary, path)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Be the only run that writes to a folder.

    Raises:
        RuntimeError: another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"Another run is writing to {folder}. Wait for it, or choose another --output."
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
