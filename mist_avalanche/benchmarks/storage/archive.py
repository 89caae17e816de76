"""Archives unpacked whole or not at all, and never outside their folder."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tqdm.auto import tqdm

from ..._support.disk import full_disk_named, need_space
from ..._support.progress import hidden

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
MAX_MEMBERS = 2_000_000
MAX_GROWTH = 100  # an archive may not unpack to more than this many times its own size, or 1 MB
_CHUNK = 1 << 20
# RuntimeError: a zip with a password, or packed in a way that python does not know.
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,
    UnicodeError,
)


@dataclass(frozen=True)
class _Member:
    """A regular file within an archive, or a folder: then there is nothing to open."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None] | None


def stem(name: str) -> str:
    """An archive's name without its suffix, or ``""`` for another file."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return ""


def unpack(archive: Path, target: Path, *, progress: bool = True) -> Path:
    """Unpack into a new folder; a folder that is alone at the archive's top becomes that folder.

    Everything is written to ``.NAME.unpacking`` beside ``target``, which takes its place when all
    is there; after an error it is gone. One process at a time may do so: what another one left
    there when it was killed is removed.

    Args:
        archive: a .zip, .tar, .tgz or .tar.gz file; its content counts, not its name.
        target: the new folder.
        progress: show a progress bar.

    Returns:
        ``target``.

    Raises:
        ValueError: no archive or a broken one; a member that is a link or a device, or would lie
            outside; more than 100 times the archive's size, or two million files.
        OSError: no permission, or no space.
    """
    temporary = target.with_name(f".{target.name}.unpacking")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except PermissionError as error:
        raise PermissionError(
            f"Cannot unpack {archive}: {target.parent} is not writable. Unpack it elsewhere and "
            "give that folder as `dataset_root`."
        ) from error
    try:
        with full_disk_named(target.parent, f"unpacking {archive}"):
            _unpack_into(temporary, archive, progress)
        inside = [path for path in temporary.iterdir() if path.name != "__MACOSX"]
        whole = inside[0] if len(inside) == 1 and inside[0].is_dir() else temporary
        whole.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _unpack_into(folder: Path, archive: Path, progress: bool) -> None:
    """Write every file of an archive, within the limits."""
    limit = max(MAX_GROWTH * archive.stat().st_size, 1 << 20)
    total = n = files = 0
    try:
        with (
            _opened(archive) as opened,
            tqdm(
                desc=f"Unpacking {archive.name}",
                unit="B",
                unit_scale=True,
                disable=hidden(progress),
            ) as bar,
        ):
            for member in _members(archive, opened):
                total, n = total + member.size, n + 1
                if total > limit or n > MAX_MEMBERS:
                    raise ValueError(
                        f"{archive} unpacks to more than {MAX_GROWTH} times its size, or to more "
                        f"than {MAX_MEMBERS} files. Refused; nothing was kept."
                    )
                files += member.open is not None
                need_space(folder, member.size, f"unpacking {archive}")
                _write(folder / member.name, member)
                bar.update(member.size)
    except _BROKEN as error:
        raise ValueError(f"{archive} is broken or cut off ({error}). Get it again.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"{archive} has two files of one name ({error.filename}).") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{archive} is broken ({error}). Get it again.") from error  # of bz2
    if files == 0:
        raise ValueError(f"{archive} has no files in it. Get it again.")


def _write(path: Path, member: _Member) -> None:
    """Copy a member's bytes, exactly as many as its header says; make a folder."""
    if member.open is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise EOFError(member.name)
    with source, path.open("xb") as out:
        left = member.size
        while left > 0:
            chunk = source.read(min(_CHUNK, left))
            if not chunk:
                raise EOFError(f"in {member.name}")
            out.write(chunk)
            left -= len(chunk)
        source.read(1)  # lets a zip compare its checksum


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    """An archive of whatever kind it is."""
    try:
        if zipfile.is_zipfile(archive):
            return zipfile.ZipFile(archive)
        return tarfile.open(archive, "r:*")
    except _BROKEN as error:
        with archive.open("rb") as file:
            page = file.read(64).strip().startswith(b"<")
        hint = " It is a web page: the link led to an error page." if page else ""
        raise ValueError(
            f"{archive} is no whole zip or tar archive.{hint} Get it again."
        ) from error


def _members(archive: Path, opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[_Member]:
    """The files of an archive; anything but files and folders within it is refused."""
    if isinstance(opened, zipfile.ZipFile):
        for entry in opened.infolist():
            kind = entry.external_attr >> 28  # of the file's mode, where the archive has one
            _refuse(archive, entry.filename, kind not in (0, 0o04, 0o10))
            name = entry.filename.replace("\\", "/")  # some of Windows' tools write these
            folder = name.endswith("/")
            content = None if folder else partial(opened.open, entry)
            yield _Member(name, 0 if folder else entry.file_size, content)
        return
    for info in opened:
        _refuse(archive, info.name, not (info.isfile() or info.isdir()))
        reader = partial(opened.extractfile, info) if info.isfile() else None
        yield _Member(info.name, info.size if info.isfile() else 0, reader)
        opened.members.clear()  # type: ignore[attr-defined]  # else a million headers are kept
    assert opened.fileobj is not None
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it has no end mark")
    while opened.fileobj.read(_CHUNK):  # to the end, where gzip compares its checksum
        pass


def _refuse(archive: Path, name: str, special: bool) -> None:
    """Refuse links and devices, and names that lead outside."""
    if special:
        raise ValueError(f"{archive} has {name!r}, a link or device. Refused; nothing was kept.")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        raise ValueError(
            f"{archive} has {name!r}, which lies outside its folder. Refused; nothing was kept."
        )
