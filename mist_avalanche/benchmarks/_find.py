"""Whatever copy of a dataset a folder has: recognised, unpacked where need be, downloaded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from avalanche.benchmarks.datasets import default_dataset_location

from ._archive import stem, unpack
from ._catalog import DatasetFacts
from ._download import fetch
from ._layouts import LAYOUTS, Split

log = logging.getLogger(__name__)
# What the argument `split` may ask for, and the layouts that have it.
SPLITS = {
    "official": ("official", "devkit", "python"),
    "processed": ("folders",),
    "hash": ("classes",),
}


def find(
    facts: DatasetFacts,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    download: bool = False,
    unpacking: bool = True,
    progress: bool = True,
) -> Split:
    """Training and test images of a dataset.

    Args:
        facts: which dataset.
        root: a folder that has the dataset as a folder or an archive, or one of these itself; None
            for Avalanche's data folder.
        split: ``"official"``, ``"processed"`` (train and test folders), ``"hash"``, or None for the
            first of the dataset's that is there.
        download: fetch the official archive when nothing is there.
        unpacking: look into archives, which unpacks them.
        progress: show progress bars.

    Raises:
        FileNotFoundError: nothing is there, or not that split; the message says what to get.
        ValueError: what is there is broken.
        OSError: permissions, space or network.
    """
    where = Path(root).expanduser() if root else Path(default_dataset_location(facts.name))
    layouts = _layouts(facts, split)
    archives = [where] if where.is_file() else list(_archives(facts, where))
    found = _recognise(facts, _candidates(facts, where), layouts)
    for archive in archives if unpacking else ():
        if found is None and not (download and _to_be_fetched(facts, archive)):
            found = _in_archive(facts, archive, layouts, progress)
    if found is None and download:
        if facts.remote is None:
            raise FileNotFoundError(f"{facts.title} cannot be downloaded. It needs {facts.where}.")
        archive = fetch(facts.remote, where, progress=progress)
        found = _in_archive(facts, archive, layouts, progress)
    if found is None:
        if archives and not unpacking:
            raise ValueError(f"{archives[0]}, not unpacked yet")
        raise FileNotFoundError(_missing(facts, where, split))
    if len(found.class_names) != facts.n_classes:
        log.warning(
            "%s has %d classes; %s has %d.",
            facts.title,
            facts.n_classes,
            found.root,
            len(found.class_names),
        )
    return found


def _layouts(facts: DatasetFacts, split: str | None) -> tuple[str, ...]:
    """The layouts to look for."""
    offered = [name for name, kinds in SPLITS.items() if set(kinds) & set(facts.layouts)]
    if split is not None and split not in offered:
        raise ValueError(
            f"Expected `split` of {facts.title} to be {' or '.join(map(repr, offered))} or None, "
            f"got {split!r}."
        )
    return tuple(k for k in facts.layouts if split is None or k in SPLITS[split])


def _recognise(
    facts: DatasetFacts, folders: Iterator[Path] | list[Path], layouts: tuple[str, ...]
) -> Split | None:
    """The first layout that one of the folders has."""
    there = [folder for folder in folders if folder.is_dir()]
    for layout in layouts:
        for folder in there:
            try:
                found = LAYOUTS[layout](folder)
            except PermissionError as error:
                raise PermissionError(
                    f"No permission to read {error.filename}. Give yourself access to it."
                ) from error
            if found is not None:
                return found
    return None


def _in_archive(
    facts: DatasetFacts, archive: Path, layouts: tuple[str, ...], progress: bool
) -> Split | None:
    """The layout in an archive; it is unpacked beside it, and stays only if there is one."""
    name = stem(archive.name) or archive.name
    targets = [archive.with_name(name), archive.with_name(f"{archive.name}-unpacked")]
    for target in targets:
        if target.is_dir():
            found = _recognise(facts, _around(facts, target), layouts)
            if found is not None:
                return found
    free = [path for path in targets if not path.exists()]
    if not free:
        return None
    target = unpack(archive, free[0], progress=progress)
    found = None
    try:
        found = _recognise(facts, _around(facts, target), layouts)
    finally:
        if found is None:
            shutil.rmtree(target)
    return found


def _to_be_fetched(facts: DatasetFacts, archive: Path) -> bool:
    """Whether an archive is the official one, but not whole."""
    remote = facts.remote
    return (
        remote is not None
        and archive.name == remote.filename
        and archive.stat().st_size != remote.size
    )


def _missing(facts: DatasetFacts, where: Path, split: str | None) -> str:
    """What to get, and how."""
    wanted = f"the {split} split of {facts.title}" if split else facts.title
    message = f"No copy of {wanted} in {str(where)!r}. It needs {facts.where}."
    if facts.remote is not None:
        message += (
            f" `mist-avalanche data get {facts.name} --root {where}` downloads "
            f"{facts.remote.size / 1e9:.2f} GB."
        )
    return message


def split_name(facts: DatasetFacts, found: Split) -> str:
    """How the images are divided, for results; train and test folders also by whose they are."""
    known = facts.counts.get((len(found.train), len(found.test)))
    return f"{found.kind} ({known})" if known and found.kind.endswith("folders") else found.kind


def _plain(name: str) -> str:
    """Letters and digits of a name, lower-case."""
    return "".join(c for c in name.lower() if c.isalnum())


def _candidates(facts: DatasetFacts, root: Path) -> Iterator[Path]:
    """Folders of the dataset's names in a root, what they hold of such names, and the root."""
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if _plain(folder.name).startswith(facts.folders) and folder.is_dir():
            yield from _around(facts, folder)
    yield root


def _around(facts: DatasetFacts, folder: Path) -> Iterator[Path]:
    """A folder, and the folders of the dataset's names in it."""
    yield folder
    for inner in sorted(folder.iterdir()):
        if _plain(inner.name) in facts.folders and inner.is_dir():
            yield inner


def _archives(facts: DatasetFacts, root: Path) -> Iterator[Path]:
    """The archives of the dataset's names in a root."""
    for file in sorted(root.iterdir()) if root.is_dir() else ():
        if _plain(stem(file.name)) in facts.folders and file.is_file():
            yield file
