"""Downloads and unpacks archives."""

import errno
import logging
import os
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

from torch.hub import download_url_to_file
from torchvision.datasets.utils import check_md5

from .images import is_image_name

log = logging.getLogger(__name__)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar")


def fetch(url: str, md5: str, folder: Path, *, progress: bool = True) -> Path:
    """Download an archive into a folder; it gets its final name once its checksum is verified."""
    path = folder / Path(urlparse(url).path).name
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(temporary), progress=progress)
        if not check_md5(temporary, md5):
            raise ValueError(
                f"{url} sent {temporary.stat().st_size} bytes whose md5 is not {md5}: another "
                "file, or only a part. Try again."
            )
        temporary.replace(path)
    except (OSError, HTTPException) as error:
        raise OSError(f"Cannot download {url} to {folder}: {error}. Try again.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def archive_stem(name: str) -> str:
    """The name of a .zip, .tar, .tgz or .tar.gz file without suffix; empty for other files."""
    for suffix in (".tar.gz", ".tgz", ".tar", ".zip"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return ""


def unpacked(archive: Path) -> Path:
    """The folder next to a zip or tar file with its content, unpacked if it does not exist yet.

    It appears only when it is complete. A single top-level folder of the archive becomes it.
    """
    folder = archive.with_name(archive_stem(archive.name) or f"{archive.name}-unpacked")
    origin = f"{archive.name}, {archive.stat().st_size} bytes\n"
    if folder.exists():
        stamp = folder / ".unpacked-from"
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != origin:
            log.warning("Using %s, which was not unpacked from %s. Remove it?", folder, archive)
        return folder
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            content = Path(temporary) / "content"
            content.mkdir()
            if zipfile.is_zipfile(archive):
                _unzip(archive, content)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(content, filter="data")
                    tar.fileobj.seek(tar.offset)  # where tarfile stopped, even at a broken header
                    if len(end := tar.fileobj.read(1024)) < 512 or any(end):
                        raise tarfile.ReadError
            inside = [path for path in content.iterdir() if path.name != "__MACOSX"]
            files = [*content.rglob("*")]
            archives = [path.name for path in files if path.suffix in _ARCHIVES]
            if archives and not any(is_image_name(path.name) for path in files):
                raise ValueError(f"it holds another archive, {archives[0]}")
            whole = inside[0] if len(inside) == 1 and inside[0].is_dir() else content
            (whole / ".unpacked-from").write_text(origin, encoding="utf-8")
            if not folder.exists():  # otherwise another process was faster
                whole.rename(folder)
    except Exception as error:  # a broken archive may raise any type
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            reason = f"Cannot unpack {archive} in its own folder: {error.strerror}"
            raise OSError(error.errno, f"{reason}. Unpack it and give the folder.") from error
        broken = isinstance(error, tarfile.ReadError | OSError)
        cause = "only whole zip and tar archives can be read" if broken else error
        raise ValueError(
            f"Cannot unpack {archive}: {cause}. Unpack it with another program "
            "and give the folder; if that fails, the file is damaged: download it again."
        ) from error
    return folder


def _unzip(archive: Path, folder: Path) -> None:
    """Unpack a zip file. Names without the UTF-8 flag are read as UTF-8 if possible, or cp437."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.flag_bits & 0x800:
                with suppress(UnicodeError):
                    info.filename = info.filename.encode("cp437").decode("utf-8")
            opened.extract(info, folder)
