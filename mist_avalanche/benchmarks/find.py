"""Find a copy of a dataset: a folder or an archive with one of its names, or a download."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avalanche.benchmarks.datasets import default_dataset_location

from .download import OfficialArchive, archive_stem, fetch, unpack
from .layouts import Layout, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a dataset, to recognise it on disk."""

    name: str  # on the command line
    title: str  # as its authors write it
    layouts: Sequence[Layout]  # of its copies, the preferred one first
    folder_names: Sequence[str] = ()  # and names of archives: lower-case letters and digits
    how_to_get: str  # what to get by hand, and where
    archive: OfficialArchive | None = None
    n_classes: int | None = None  # None: any number
    n_images: int | None = None  # training and test images together
    known_splits: Mapping[tuple[int, int], str] = field(default_factory=dict)  # by their sizes

    def split_name(self, found: Split) -> str:
        """How the images are divided, for results, with a digest of the test images."""
        known = self.known_splits.get((len(found.train), len(found.test)))
        like = f" ({known})" if known and found.kind.endswith("folders") else ""
        return f"{found.kind}{like}, test images {found.test.digest()}"

    def differences(self, found: Split) -> list[str]:
        """Where a copy has another number of classes or images."""
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
    download: bool = False,
    progress: bool = True,
) -> Split:
    """The images of a dataset: in a folder, else in an archive, else downloaded.

    Raises:
        FileNotFoundError: there is no copy, or none with that split; the message says what to get.
        ValueError: the copy is broken, or the dataset has no such split.
        OSError: no permission, space or network.
    """
    if root is None and not dataset.folder_names:
        raise ValueError("Which folder is it? Give `dataset_root` (--dataset-root, data: --root).")
    where = data_folder(root)
    layouts = [layout for layout in dataset.layouts if split in (None, layout.split)]
    if not layouts:
        splits = " or ".join(repr(layout.split) for layout in dataset.layouts)
        raise ValueError(
            f"Expected `split` of {dataset.title} to be {splits} or None, got {split!r}."
        )
    found = find_folder(dataset, where, layouts)
    for archive in find_archives(dataset, where):
        found = found or _read_archive(dataset, archive, layouts)
    if found is None and download:
        archive = _fetch(dataset, where, layouts, progress)
        found = _read_archive(dataset, archive, layouts)
    if found is None:
        raise FileNotFoundError(_what_to_get(dataset, where, split))
    for difference in dataset.differences(found):
        log.warning("%s in %s.", difference, found.root)
    return found


def data_folder(root: str | Path | None) -> Path:
    """A root as the user gave it; None for Avalanche's data folder."""
    return Path(root).expanduser() if root else Path(default_dataset_location(""))


def find_folder(dataset: Dataset, root: Path, layouts: Sequence[Layout]) -> Split | None:
    """The images in a folder with a name of the dataset, in or below a root, or in the root.

    A root with another name must have the dataset's number of classes.
    """
    if not root.is_dir():
        return None
    named = [inner for folder in _named(dataset, root) for inner in _with_inner(dataset, folder)]
    if not dataset.folder_names or _is_named(dataset, root.resolve()):
        return _read_first(dataset, [*named, *_with_inner(dataset, root)], layouts)
    found = _read_first(dataset, named, layouts)
    if found is None:
        found = _read_first(dataset, [root], layouts)
        if found and len(found.class_names) != dataset.n_classes:
            return None
    return found


def find_archives(dataset: Dataset, root: Path) -> list[Path]:
    """The archives in a root with a name of the dataset, or the root where it is an archive."""
    if root.is_file():
        return [root]
    paths = sorted(root.iterdir()) if root.is_dir() else []
    return [path for path in paths if archive_stem(path.name) and _is_named(dataset, path)]


def _read_archive(dataset: Dataset, archive: Path, layouts: Sequence[Layout]) -> Split | None:
    """The images in an archive, which is unpacked beside itself unless it already is."""
    target = archive.with_name(archive_stem(archive.name) or f"{archive.name}-unpacked")
    if not target.exists():
        unpack(archive, target)
    return _read_first(dataset, _with_inner(dataset, target), layouts)


def _read_first(
    dataset: Dataset, folders: Iterable[Path], layouts: Sequence[Layout]
) -> Split | None:
    """The images in the first of the layouts that one of the folders has."""
    for layout in layouts:
        for folder in folders:
            try:
                found = layout.read(folder)
            except PermissionError:
                raise
            except Exception as error:  # a broken table, pickle or MATLAB file raises any type
                reason = error if isinstance(error, ValueError | OSError) else repr(error)
                raise ValueError(
                    f"{folder} is broken as a copy of {dataset.title}: {reason}. Repair it, or get "
                    "it again."
                ) from error
            if found is not None:
                return found
    return None


def _is_named(dataset: Dataset, path: Path) -> bool:
    """Whether a folder or an archive has a name of the dataset, whatever its punctuation."""
    name = archive_stem(path.name) or path.name
    plain = "".join(c for c in name.lower() if c.isalnum())
    return plain in dataset.folder_names and not name.startswith(".")


def _named(dataset: Dataset, root: Path) -> list[Path]:
    """The folders in a root with a name of the dataset."""
    return [path for path in sorted(root.iterdir()) if _is_named(dataset, path) and path.is_dir()]


def _with_inner(dataset: Dataset, folder: Path) -> list[Path]:
    """A folder, and those in it with a name of the dataset; of any name, one that is alone."""
    if dataset.folder_names:
        return [folder, *_named(dataset, folder)]
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] not in "._"]
    return [folder, *inner] if len(inner) == 1 else [folder]


def _fetch(dataset: Dataset, folder: Path, layouts: Sequence[Layout], progress: bool) -> Path:
    """Download the official archive, which must have one of the layouts."""
    official = dataset.archive
    if official is None:
        raise FileNotFoundError(
            f"{dataset.title} cannot be downloaded. It needs {dataset.how_to_get}."
        )
    if official.split not in [layout.split for layout in layouts]:
        raise ValueError(
            f"The download of {dataset.title} has the split {official.split!r} only. Omit `split`, "
            f"or get {dataset.how_to_get}."
        )
    return fetch(official, folder, progress=progress)


def _what_to_get(dataset: Dataset, where: Path, split: str | None) -> str:
    wanted = f"the {split} split of {dataset.title}" if split else dataset.title
    message = f"No copy of {wanted} in {str(where)!r}. It needs {dataset.how_to_get}."
    if dataset.folder_names:
        message += f" If it is a part of {dataset.title}, name the folder {dataset.name!r}."
    if dataset.archive is not None:
        message += (
            f" `mist-avalanche data get {dataset.name} --root {shlex.quote(str(where))}` downloads "
            f"{dataset.archive.size / 1e9:.2f} GB."
        )
    return message
