"""What image files a tree of class folders has, listed once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import time
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import is_image_name

_SETTLED = 2.0  # seconds; a folder changed later than this before its listing is listed again
_Listing = dict[str, Any]  # {"stamp": [inode, mtime, ctime], "images": [...], "others": n}


@dataclass(frozen=True)
class ClassFolders:
    """Image names by class folder, both sorted.

    Args:
        images: class folder to the names of its images.
        others: files and folders among them that are no images by their names.
    """

    images: dict[str, list[str]]
    others: int

    @property
    def empty(self) -> list[str]:
        """Class folders without an image."""
        return [name for name, images in self.images.items() if not images]


def cache_folder() -> Path:
    """Where listings are kept: ``$XDG_CACHE_HOME/mist_avalanche``, by default in ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(given) / "mist_avalanche"


def list_class_folders(root: Path) -> ClassFolders:
    """The folders right below ``root`` and their images.

    A second call reads the names from the cache, folder by folder, unless the folder is another one
    or its times say that files came, went or were renamed. A cache that cannot be read or written
    costs the time of listing and nothing else.

    Raises:
        PermissionError: a folder cannot be read.
    """
    file = cache_folder() / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.json"
    known = _read(file)
    listings: dict[str, _Listing] = {}
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda e: unicodedata.normalize("NFC", e.name)):
            if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")):
                listings[entry.name] = _listing(entry, known.get(entry.name))
    if listings != known:
        _write(file, listings)
    return ClassFolders(
        {name: listing["images"] for name, listing in listings.items()},
        sum(listing["others"] for listing in listings.values()),
    )


def _listing(folder: os.DirEntry[str], known: Any) -> _Listing:
    found = folder.stat()
    stamp = [found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    if isinstance(known, dict) and known.get("stamp") == stamp:
        return known
    with os.scandir(folder.path) as entries:
        inside = [(entry.name, entry.is_file()) for entry in entries]
    images = sorted(name for name, is_file in inside if is_file and is_image_name(name))
    settled = time.time_ns() - max(stamp[1:]) > _SETTLED * 1e9
    return {
        "stamp": stamp if settled else None,
        "images": images,
        "others": sum(not name.startswith(".") for name, _ in inside) - len(images),
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and all(map(_whole, content.values())) else {}


def _whole(listing: Any) -> bool:
    """Whether a listing from the cache has its parts."""
    return (
        isinstance(listing, dict)
        and listing.keys() == {"stamp", "images", "others"}
        and isinstance(listing["others"], int)
        and isinstance(listing["images"], list)
        and all(isinstance(name, str) for name in listing["images"])
    )


def _write(file: Path, listings: dict[str, _Listing]) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(listings))
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
