"""Downloads that go on where they stopped, and count only when size and checksum are right."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from tqdm.auto import tqdm

from ..._support.disk import full_disk_named, locked, need_space
from ..._support.progress import hidden
from .catalog import Remote

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_UNPACKED = 1.2  # photographs take little more than their archive
_INTERRUPTED = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
)


def fetch(remote: Remote, folder: Path, *, progress: bool = True) -> Path:
    """Download a file into a folder, under a temporary name until it is whole.

    What an earlier call got is kept in ``.NAME.part`` and gone on with.

    Args:
        remote: where it is, and what it must be.
        folder: made if need be.
        progress: show a progress bar.

    Returns:
        The file's path. A file that is there and is not the official one gets ``.old`` added to
        its name.

    Raises:
        OSError: the server, the network, the disk's space or permissions; what came is kept.
        ValueError: a wrong size or checksum; what came is removed.
    """
    path, part = folder / remote.filename, folder / f".{remote.filename}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path):
        there = path.is_file() and path.stat().st_size == remote.size
        if there and _digest(remote, path, progress) == remote.digest:
            return path
        have = part.stat().st_size if part.is_file() else 0
        room = remote.size - have + round(_UNPACKED * remote.size)
        need_space(folder, room, f"{remote.filename}, unpacked beside itself,")
        if have < remote.size:
            with full_disk_named(folder, f"downloading {remote.filename}"):
                _get(remote, part, have, progress)
        _verify(remote, part, progress)
        if path.exists():
            path.replace(path.with_name(f"{path.name}.old"))
        part.replace(path)
    return path


def _get(remote: Remote, part: Path, have: int, progress: bool) -> None:
    """Append what is missing."""
    headers = {"User-Agent": "mist-avalanche", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise OSError(f"{remote.url} is a web page, not the file: the link may be dead.")
            resumed = have > 0 and response.status == 206
            with (
                part.open("ab" if resumed else "wb") as out,
                tqdm(
                    desc=remote.filename,
                    total=remote.size,
                    initial=have if resumed else 0,
                    unit="B",
                    unit_scale=True,
                    disable=hidden(progress),
                ) as bar,
            ):
                while chunk := response.read(_CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
                    if out.tell() > remote.size:
                        break
    except _INTERRUPTED as error:
        raise OSError(
            f"{remote.url} could not be fetched ({error}). What came is kept: call again to go on."
        ) from error


def _verify(remote: Remote, part: Path, progress: bool) -> None:
    """Compare size and checksum; remove what is wrong."""
    size = part.stat().st_size
    if size < remote.size:
        raise OSError(
            f"{remote.url} ended after {size} of {remote.size} bytes. What came is kept: call "
            "again to go on."
        )
    digest = _digest(remote, part, progress)
    if size != remote.size or digest != remote.digest:
        part.unlink()
        raise ValueError(
            f"{remote.url} sent {size} bytes with {digest}; expected {remote.size} bytes with "
            f"{remote.digest}. Removed: the source has changed or was tampered with."
        )


def _digest(remote: Remote, file: Path, progress: bool) -> str:
    """``algorithm:checksum`` of a file, as the remote's is written."""
    algorithm = remote.digest.partition(":")[0]
    digest = hashlib.new(algorithm)
    size = file.stat().st_size
    with (
        file.open("rb") as opened,
        tqdm(
            desc="Checking", total=size, unit="B", unit_scale=True, disable=hidden(progress)
        ) as bar,
    ):
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return f"{algorithm}:{digest.hexdigest()}"
