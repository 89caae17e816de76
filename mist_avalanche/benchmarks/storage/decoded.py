"""Decoded images kept for later epochs, or later runs: one copy for all worker processes.

They lie in one file: a row for every image, then pixels in the order in which they came.

    row 0 | row 1 | … | row n - 1 | pixels | pixels | …

In memory the file has no name and goes with the last process that has it open. Who misses an image
decodes it, appends its pixels and then writes its row; nothing is written twice at one place. A row
counts if its checksum and that of its pixels are right and its image file is still the same one.
So an image that a killed process, a full disk or a cut file left in part is decoded again.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import struct
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import Image, features
from torch import Tensor

from ..._support.memory_use import available_memory
from .images import ImageFiles, LabelledImages, read_image
from .index import cache_folder

try:
    import fcntl
    from multiprocessing.reduction import DupFd
except ImportError:  # Windows
    CAN_SHARE = False
else:
    CAN_SHARE = True

log = logging.getLogger(__name__)
CACHES = ("ram", "disk")
BOUND = "MIST_CACHE_GB"  # environment variable: the most that a cache takes
_FORMAT = 2  # to be raised with every change of the file or of what `read_image` gives
_STAMP = struct.Struct("<QqqQ")  # of an image file: size, mtime, ctime, inode
_ROW = struct.Struct(f"<QIII{_STAMP.size}s")  # place, width, height, checksum of pixels, stamp
_CHECK = struct.Struct("<I")  # checksum of the row
_ROW_SIZE = _ROW.size + _CHECK.size
_STEP = 2**24  # bytes; how often it is asked what is free


class DecodedImages:
    """Images as they were decoded, by their number.

    It takes at most half of the free memory or disk, or what ``MIST_CACHE_GB`` says. Images beyond
    that are decoded every time.

    Args:
        n: number of images.
        path: the file; None for memory.
        full: whether nothing more fits, shared by all processes.
        fd: of the file, where it is open.

    Raises:
        OSError: the file cannot be made.
        ValueError: ``MIST_CACHE_GB`` is no number.
    """

    def __init__(
        self, n: int, path: Path | None, full: Tensor | None = None, fd: int | None = None
    ) -> None:
        self.n, self.path, self.bound = n, path, _bound()
        self.full = torch.zeros(1, dtype=torch.bool) if full is None else full
        self.full.share_memory_()  # type: ignore[no-untyped-call]
        self.fd = _open(path) if fd is None else fd
        weakref.finalize(self, os.close, self.fd)

    def read(self, index: int, file: Path) -> Image.Image:
        """The image of a file, as :func:`read_image` gives it."""
        now = os.stat(file)
        stamp = _STAMP.pack(now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)
        image = self._kept(index, stamp)
        if image is None:
            image = read_image(file)
            self._keep(index, stamp, image)
        return image

    def _kept(self, index: int, stamp: bytes) -> Image.Image | None:
        try:
            row = os.pread(self.fd, _ROW_SIZE, index * _ROW_SIZE)
            if len(row) < _ROW_SIZE or row[_ROW.size :] != _checksum(row[: _ROW.size]):
                return None
            place, width, height, checksum, of = _ROW.unpack_from(row)
            if of != stamp:
                return None
            pixels = os.pread(self.fd, 3 * width * height, place)
        except OSError:  # a bad disk
            return None
        if zlib.crc32(pixels) != checksum:
            return None
        return Image.frombytes("RGB", (width, height), pixels)

    def _keep(self, index: int, stamp: bytes, image: Image.Image) -> None:
        if self.full:
            return
        pixels = image.tobytes()
        try:
            place = self._append(pixels)
            row = _ROW.pack(place, *image.size, zlib.crc32(pixels), stamp)
            os.pwrite(self.fd, row + _checksum(row), index * _ROW_SIZE)
        except OSError as error:
            self.full.fill_(True)
            where = "memory" if self.path is None else self.path
            log.warning(
                "The cache of decoded images in %s takes no more (%s). The other images are "
                "decoded every time.",
                where,
                error.strerror,
            )

    def _append(self, pixels: bytes) -> int:
        """Where the pixels were written."""
        with _locked(self.fd):
            place = max(os.fstat(self.fd).st_size, self.n * _ROW_SIZE)
            self._need_room(place, place + len(pixels))
            written = 0
            try:
                written = os.pwrite(self.fd, pixels, place)
            finally:
                if written < len(pixels):
                    os.ftruncate(self.fd, place)
            if written < len(pixels):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return place

    def _need_room(self, begin: int, end: int) -> None:
        if self.bound is not None:
            if end > self.bound:
                raise OSError(errno.ENOSPC, f"{BOUND} is {self.bound / 1e9:g}")
        elif begin // _STEP < end // _STEP:
            free = shutil.disk_usage(self.path.parent).free if self.path else available_memory()
            if end > free:
                raise OSError(
                    errno.ENOSPC, f"it has {begin / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> DecodedImages:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker that starts with spawn gets the same memory, another process has its own."""
        shared = self.path is None and get_spawning_popen() is not None
        return _arrived, (self.n, self.path, self.full, DupFd(self.fd) if shared else None)


class DecodedFiles(LabelledImages):
    """Image files, each decoded once.

    Args:
        files: the images.
        decoded: where they are kept.
        first: number of the first of them there.
    """

    def __init__(self, files: ImageFiles, decoded: DecodedImages, first: int) -> None:
        self.files, self.decoded, self.first = files, decoded, first
        self.targets = files.targets

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        index = range(len(self))[index]
        file = self.files.root / self.files.names[index]
        return self.decoded.read(self.first + index, file), self.targets[index]

    def content(self, index: int) -> bytes:
        """The file's bytes."""
        return self.files.content(index)

    def name(self, index: int) -> str:
        """The file's name below the root."""
        return self.files.name(index)


def check_cache(cache: str | None) -> None:
    """Raise ValueError for the name of a cache that there is not."""
    if cache is not None and cache not in CACHES:
        raise ValueError(f"Expected `cache` to be 'ram', 'disk' or None, got {cache!r}.")


def kept_decoded(
    cache: str | None, train: LabelledImages, test: LabelledImages
) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images with a cache; as they are where they need none, or have no place."""
    check_cache(cache)
    if cache is None or not (isinstance(train, ImageFiles) and isinstance(test, ImageFiles)):
        return train, test
    path = _path(train, test) if cache == "disk" else None
    try:
        if not CAN_SHARE:
            raise OSError("this system cannot share an open file between processes")
        decoded = DecodedImages(len(train) + len(test), path)
    except (OSError, RuntimeError) as error:  # torch raises the latter without shared memory
        log.warning("No cache of decoded images: %s. They are decoded every time.", error)
        return train, test
    return DecodedFiles(train, decoded, 0), DecodedFiles(test, decoded, len(train))


def _path(*parts: ImageFiles) -> Path:
    """A file in the user's cache, by all that decides which images it has and how they decode."""
    codecs = [features.version(codec) for codec in ("jpg", "libjpeg_turbo", "webp")]
    lines = [str(_FORMAT), PIL.__version__, *map(str, codecs)]
    for part in parts:
        lines += [str(part.root.resolve()), *part.names]
    key = hashlib.sha256("\0".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_folder() / "decoded" / f"{key}.pixels"


def _bound() -> float | None:
    """Bytes that a cache may take; None for half of what is free."""
    given = os.environ.get(BOUND)
    try:
        return float(given) * 1e9 if given else None
    except ValueError:
        raise ValueError(f"Expected a number of gigabytes in {BOUND}, got {given!r}.") from None


def _open(path: Path | None) -> int:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform == "linux":
        return os.memfd_create("decoded images")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _arrived(n: int, path: Path | None, full: Tensor, shared: Any) -> DecodedImages:
    return DecodedImages(n, path, full, shared.detach() if shared else None)


def _checksum(row: bytes) -> bytes:
    return _CHECK.pack(zlib.crc32(row))


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    """One process at a time; the lock of a process that is killed is gone."""
    fcntl.lockf(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)
