"""Finds a copy of a dataset: a folder or an archive with one of its names, or a download."""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from avalanche.benchmarks.datasets import default_dataset_location

from .download import archive_stem, fetch, unpacked
from .images import digest
from .layouts import CLASS_FOLDERS, Layout, Split, class_folders

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Facts about a dataset, to recognise it on disk."""

    name: str  # on the command line
    title: str  # as its authors write it
    layouts: Sequence[Layout]  # layouts of its copies, the preferred one first
    folder_names: Sequence[str] = ()  # also of archives; only lower-case letters and digits
    how_to_get: str  # what to download by hand, and from where
    url: str = ""  # URL of the official archive, if there is one
    size: int = 0  # size of the archive in bytes
    md5: str = ""  # checksum of the archive
    n_classes: int | None = None  # None: any number
    n_images: int | None = None  # training and test images together
    known_splits: Mapping[tuple[int, int], str] = field(default_factory=dict)  # by their sizes

    def split_name(self, found: Split) -> str:
        """Description of the split for results, with a digest of the test images."""
        known = self.known_splits.get((len(found.train), len(found.test)))
        like = f" ({known})" if known and found.kind.endswith("folders") else ""
        return f"{found.kind}{like}, digest of test images {digest(found.test)}"

    def differences(self, found: Split) -> list[str]:
        """Deviations of a copy from the expected numbers of classes and images."""
        n_classes, n_images = len(found.class_names), len(found.train) + len(found.test)
        counts = (("classes", self.n_classes, n_classes), ("images", self.n_images, n_images))
        return [
            f"{self.title} has {expected} {what}, there are {n}"
            for what, expected, n in counts
            if expected not in (None, n)
        ]


def find(
    dataset: Dataset,
    root: str | Path | None = None,
    split: str | None = None,
    *,
    unpacking: bool = True,
    download: bool = False,
    progress: bool = True,
) -> Split:
    """Find the images of a dataset in a folder with one of its names, or with all its classes.

    Raises the errors of a benchmark's call, see :class:`.image_benchmarks.ImageBenchmark`.
    """
    if root is None and not dataset.folder_names:
        raise ValueError("Which folder is it? Give `dataset_root` (--dataset-root).")
    layouts = [layout for layout in dataset.layouts if split in (None, layout.split)]
    if not layouts:
        splits = " or ".join(repr(layout.split) for layout in dataset.layouts)
        raise ValueError(
            f"Expected `split` of {dataset.title} to be {splits} or None, got {split!r}."
        )
    where, url = data_folder(root), dataset.url if split != "processed" else ""
    for folders in _places(dataset, where, unpacking, url if download else "", progress):
        found = _read_first(dataset, folders, layouts)
        if found is not None:
            for note in (*dataset.differences(found), *found.notes):
                _warn_once(f"{found.root}: {note}.")
            return found
    wanted = f"the {split} split of {dataset.title}" if split else dataset.title
    names = sorted(path.name for path in where.iterdir())[:5] if where.is_dir() else []
    there = ", ".join(names) or "nothing"
    message = f"No copy of {wanted} in {str(where)!r} ({there}). It needs {dataset.how_to_get}."
    if dataset.folder_names:
        message += (
            f" A part of {dataset.title} has to be a folder {dataset.name!r} with train and test "
            "folders of classes."
        )
    if url:
        message += (
            f" `mist-avalanche data get {dataset.name} --dataset-root {shlex.quote(str(where))}` "
            f"downloads {dataset.size / 1e9:.2f} GB."
        )
    raise FileNotFoundError(message)


def data_folder(root: str | Path | None) -> Path:
    """The root that the user gave; for None, Avalanche's data folder."""
    return Path(root).expanduser() if root else Path(default_dataset_location(""))


def find_archives(dataset: Dataset, root: Path) -> list[Path]:
    """The archives in a root with a name of the dataset, or the root itself if it is an archive."""
    if root.is_file():
        return [root]
    paths = sorted(root.iterdir()) if root.is_dir() else []
    return [path for path in paths if archive_stem(path.name) and _is_named(dataset, path)]


def _places(
    dataset: Dataset, root: Path, unpacking: bool, url: str, progress: bool
) -> Iterator[list[Path]]:
    """Folders that may be the dataset, likeliest first; archives are unpacked only when reached."""
    if root.is_dir():
        yield [place for path in _named(dataset, root) for place in _with_inner(dataset, path)]
        yield _with_inner(dataset, root)
    for archive in find_archives(dataset, root) if unpacking else ():
        yield _with_inner(dataset, unpacked(archive))
    if url and not root.is_file():
        archive = fetch(url, dataset.md5, root, progress=progress)
        yield _with_inner(dataset, unpacked(archive))


def _with_inner(dataset: Dataset, folder: Path) -> list[Path]:
    """A folder, and its subfolders with a name of the dataset; for any name, a single subfolder."""
    if dataset.folder_names:
        return [folder, *_named(dataset, folder)]
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] not in "._"]
    return [folder, *inner] if len(inner) == 1 else [folder]


def _named(dataset: Dataset, folder: Path) -> list[Path]:
    """The subfolders with a name of the dataset."""
    return [path for path in sorted(folder.iterdir()) if _is_named(dataset, path) and path.is_dir()]


def _is_named(dataset: Dataset, path: Path) -> bool:
    """Whether a folder or an archive has a name of the dataset, ignoring punctuation."""
    name = archive_stem(path.name) or path.name
    plain = "".join(c for c in name.lower() if c.isalnum())
    return plain in dataset.folder_names and not name.startswith(".")


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


def _read_first(
    dataset: Dataset, folders: Sequence[Path], layouts: Sequence[Layout]
) -> Split | None:
    """Read the images in the first layout that one of the folders matches."""
    for layout in layouts:
        for folder in folders:
            is_named = _is_named(dataset, folder) or _is_named(dataset, folder.resolve())
            any_number = is_named or dataset.n_classes is None
            few = layout is CLASS_FOLDERS and not any_number  # listing all files takes long
            if few and len(class_folders(folder)) != dataset.n_classes:
                continue
            try:
                found = layout.read(folder)
            except PermissionError:
                raise
            except Exception as error:  # a broken table, pickle or MATLAB file may raise any type
                known = isinstance(error, ValueError | OSError | RuntimeError)
                reason = error if known else f"{error!r}; repair it, or download it again"
                raise ValueError(
                    f"{folder} cannot be used as a copy of {dataset.title}: {reason}."
                ) from error
            if found and (any_number or dataset.n_classes == len(found.class_names)):
                return found
    return None
