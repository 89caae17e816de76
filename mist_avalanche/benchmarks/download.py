"""Download official archives, and unpack archives."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.utils import check_md5
from tqdm.auto import tqdm

TIMEOUT = 60.0  # seconds without a byte


class OfficialArchive(NamedTuple):
    """An archive at its official source, and the split of the dataset that it has."""

    url: str
    filename: str
    size: int  # bytes
    md5: str
    split: str


def fetch(archive: OfficialArchive, folder: Path, *, progress: bool = True) -> Path:
    """Download an archive into a folder; it gets its name when its checksum is right.

    Returns:
        Its path.

    Raises:
        ValueError: what came is not the official archive.
        OSError: no network, space or permission.
    """
    path = folder / archive.filename
    temporary = folder / f".{archive.filename}.{os.getpid()}"
    request = urllib.request.Request(archive.url, headers={"User-Agent": "mist-avalanche"})
    bar = {"desc": path.name, "unit": "B", "unit_scale": True, "disable": not progress}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(request, timeout=TIMEOUT) as response,
            temporary.open("wb") as file,
            tqdm.wrapattr(file, "write", total=archive.size, **bar) as out,
        ):
            shutil.copyfileobj(response, out, 1 << 20)
        if not check_md5(temporary, archive.md5):
            raise ValueError(
                f"{archive.url} sent {temporary.stat().st_size} bytes, which are not the official "
                f"archive of {archive.size} bytes (md5 {archive.md5}). Try again."
            )
        temporary.replace(path)
    except (OSError, HTTPException) as error:
        raise OSError(f"Cannot download {archive.url} to {folder}: {error}. Try again.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def archive_stem(name: str) -> str:
    """The name of a .zip, .tar, .tgz or .tar.gz without its suffix; empty for other files."""
    for suffix in (".tar.gz", ".tgz", ".tar", ".zip"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return ""


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar into the new folder ``target``, which appears when it is whole.

    A folder that is alone at the top of the archive becomes ``target``.

    Raises:
        ValueError: the archive is broken.
        OSError: no space or permission.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            content = Path(temporary) / "content"
            content.mkdir()
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(content)
            else:
                with tarfile.open(archive) as opened_tar:
                    opened_tar.extractall(content, filter="data")
            inside = [path for path in content.iterdir() if path.name != "__MACOSX"]
            whole = inside[0] if len(inside) == 1 and inside[0].is_dir() else content
            if not target.exists():  # else another process was faster
                whole.rename(target)
    except Exception as error:  # a broken archive raises any type, depending on its format
        if isinstance(error, OSError) and error.errno:
            reason = f"Cannot unpack {archive} beside itself: {error.strerror}"
            raise OSError(error.errno, f"{reason}. Unpack it and give the folder.") from error
        raise ValueError(
            f"{archive} is broken or cut off ({error}). Remove it and get it again."
        ) from error
