"""Files of tensors and plain data that say so where they are not what was written."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .disk import replacing

_MARK = b"mist-avalanche-1"  # after the checksum, at the end of a whole file
_BLOCK = 2**22


class DamagedFileError(ValueError):
    """A file that is not what was written."""


class _Hashing:
    """A file that is written to and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.failure: BaseException | None = None

    def write(self, part: Any) -> int:
        """Append bytes."""
        try:
            self.digest.update(part)
            return self.file.write(part)
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        """As of the file."""
        self.file.flush()


def write_checksummed(content: Any, path: Path) -> None:
    """Save what ``torch.load(weights_only=True)`` can read, whole, with a SHA-256 at the end.

    Raises:
        OSError: the disk is full, the folder cannot be written to.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]
        except RuntimeError:  # torch's, about its own state, when a write has failed
            if hashing.failure is not None:
                raise hashing.failure from None
            raise
        file.write(hashing.digest.digest() + _MARK)


def _here(storage: Any, location: str) -> Any:
    """What was on a GPU, on this process's own; on the CPU where there is none."""
    return storage.cuda() if location != "cpu" and torch.cuda.is_available() else storage


def read_checksummed(path: Path) -> Any:
    """What :func:`write_checksummed` has written; nothing in it is executed.

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
        try:
            return torch.load(file, weights_only=True, map_location=_here)
        except Exception as error:  # torch raises errors of many kinds
            raise DamagedFileError(f"{path} is no checkpoint: {error}") from error


def read_newest(files: Sequence[Path], version: int, otherwise: str) -> tuple[Path, dict[str, Any]]:
    """The newest file that is whole, and its content, with a warning of damaged ones.

    Args:
        files: the newest last.
        version: the ``format`` that the content has to have.
        otherwise: what follows where there is none.

    Raises:
        ValueError: all are damaged, or the newest is of another version.
    """
    for i, file in enumerate(reversed(files)):
        try:
            content = read_checksummed(file)
        except DamagedFileError:
            continue
        if i:
            names = ", ".join(map(str, files[-i:]))
            warnings.warn(f"Damaged: {names}. Going on from {file.name}.", stacklevel=3)
        made = content.get("format") if isinstance(content, dict) else None
        if type(made) is not int or made != version:
            raise ValueError(f"{file} is of another version of mist_avalanche. {otherwise}")
        return file, content
    raise ValueError(f"Every checkpoint is damaged: {', '.join(map(str, files))}. {otherwise}")
