"""Whatever copy of a dataset a folder has: recognised, unpacked where need be, downloaded."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._support.disk import locked
from .archive import stem, unpack
from .catalog import DatasetFacts, Remote
from .download import fetch
from .layouts import LAYOUTS, Split

log = logging.getLogger(__name__)
UNPACKED = "-unpacked"  # of a folder beside an archive, where the archive's own name is taken
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

    Looked for in this order: folders of the dataset's names in the root, the root itself, archives
    of these names, the download.

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
    if root is None and not facts.folders:
        raise ValueError(
            "Which folder is it? Give its path as `dataset_root` (--dataset-root DIR; --root DIR "
            "for `data`)."
        )
    where = data_folder(root)
    layouts = _layouts(facts, split)
    archives = [where] if where.is_file() else list(_archives(facts, where))
    found, problem = _recognise(facts, _named(facts, where), layouts), ""
    if found is None and where.is_dir():
        found, problem = _itself(facts, where, layouts)
    for archive in archives if unpacking else ():
        if found is None and not (download and _to_be_fetched(facts, archive)):
            found = _in_archive(facts, archive, layouts, progress)
    if found is None and download:
        remote = _remote(facts, layouts)
        archive = fetch(remote, where.parent if where.is_file() else where, progress=progress)
        found = _in_archive(facts, archive, layouts, progress)
    if found is None:
        if archives and not unpacking:
            raise ValueError(f"{archives[0]}, not unpacked yet")
        raise FileNotFoundError(_missing(facts, where, split) + problem)
    for what, wanted, got in unlike(facts, found):
        log.warning("%s has %d %s; %s has %d.", facts.title, wanted, what, found.root, got)
    return found


def unlike(facts: DatasetFacts, found: Split) -> list[tuple[str, int, int]]:
    """What a copy has more or less of than the dataset: what, how many it should be, how many."""
    counts: tuple[tuple[str, int | None, int], ...] = (
        ("classes", facts.n_classes, len(found.class_names)),
        ("images", facts.n_images, found.n_images),
    )
    return [(w, wanted, got) for w, wanted, got in counts if wanted is not None and wanted != got]


def data_folder(root: str | Path | None) -> Path:
    """A root as the user gave it; None for Avalanche's data folder."""
    return Path(root).expanduser() if root else _avalanches_folder()


def _avalanches_folder() -> Path:
    """Avalanche's data folder, without waiting for its import where nothing else needs it."""
    loaded = sys.modules.get("avalanche.benchmarks.datasets")
    if loaded is not None:  # the program may have set another
        return Path(loaded.default_dataset_location(""))
    try:
        settings = json.loads((Path.home() / ".avalanche" / "config.json").read_text())
        return Path(settings["dataset_location"]).expanduser()
    except FileNotFoundError:
        return Path.home() / ".avalanche" / "data"


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
    facts: DatasetFacts, folders: Iterable[Path], layouts: tuple[str, ...]
) -> Split | None:
    """The first layout that one of the folders has."""
    there = list(folders)
    for layout in layouts:
        for folder in there:
            try:
                with _permission_named():
                    found = LAYOUTS[layout](folder)
            except (LookupError, TypeError, AttributeError, UnicodeError) as error:
                raise ValueError(
                    f"The tables in {folder} are not those of {facts.title} "
                    f"({type(error).__name__}: {error}). Get the dataset again."
                ) from error
            if found is not None:
                return found
    return None


def _itself(facts: DatasetFacts, root: Path, layouts: tuple[str, ...]) -> tuple[Split | None, str]:
    """The root as the dataset, or why it is not: by its name, or by its number of classes."""
    if not facts.folders or _is_named(facts, root.resolve().name):
        return _recognise(facts, _around(facts, root), layouts), ""
    try:
        found = _recognise(facts, [root], layouts)
    except ValueError as error:
        return None, f"\nThe folder itself: {error}"
    if found is None or len(found.class_names) == facts.n_classes:
        return found, ""
    return None, (
        f"\nThe folder itself has {len(found.class_names)} classes, {facts.title} has "
        f"{facts.n_classes}. If it is a part of {facts.title}, name it {facts.name!r}."
    )


def _in_archive(
    facts: DatasetFacts, archive: Path, layouts: tuple[str, ...], progress: bool
) -> Split | None:
    """The layout in an archive; it is unpacked beside it, and stays only if there is one."""
    name = stem(archive.name) or archive.name
    targets = [archive.with_name(name), archive.with_name(f"{archive.name}{UNPACKED}")]
    with locked(targets[0]):
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


def _remote(facts: DatasetFacts, layouts: tuple[str, ...]) -> Remote:
    """What to download; an error where the download is not what is asked for."""
    if facts.remote is None:
        raise FileNotFoundError(f"{facts.title} cannot be downloaded. It needs {facts.where}.")
    if facts.remote.layout not in layouts:
        splits = [name for name, kinds in SPLITS.items() if facts.remote.layout in kinds]
        raise ValueError(
            f"The download of {facts.title} has the split {splits[0]!r}, no other. Leave `split` "
            f"away, or get {facts.where}."
        )
    return facts.remote


def _missing(facts: DatasetFacts, where: Path, split: str | None) -> str:
    """What to get, and how."""
    wanted = f"the {split} split of {facts.title}" if split else facts.title
    if not facts.folders:
        return f"{str(where)!r} is not {wanted}. It needs {facts.where}."
    message = f"No copy of {wanted} in {str(where)!r}. It needs {facts.where}."
    if facts.remote is not None:
        message += (
            f" `mist-avalanche data get {facts.name} --root {shlex.quote(str(where))}` downloads "
            f"{facts.remote.size / 1e9:.2f} GB."
        )
    return message


def split_name(facts: DatasetFacts, found: Split) -> str:
    """How the images are divided, for results, with a digest of which ones are for testing."""
    known = facts.counts.get((len(found.train), len(found.test)))
    like = f" ({known})" if known and found.kind.endswith("folders") else ""
    return f"{found.kind}{like}, test images {found.test.digest()}"


def _is_named(facts: DatasetFacts, name: str) -> bool:
    """Whether a folder's or an archive's name is one of the dataset's, whatever its punctuation."""
    name = name.removesuffix(UNPACKED)
    plain = "".join(c for c in (stem(name) or name).lower() if c.isalnum())
    return plain in facts.folders and not name.startswith(".")


def _named(facts: DatasetFacts, root: Path) -> Iterator[Path]:
    """Folders of the dataset's names in a root, and what they hold of such names."""
    if root.is_dir():
        for folder in _listed(root):
            if _is_named(facts, folder.name) and folder.is_dir():
                yield from _around(facts, folder)


def _around(facts: DatasetFacts, folder: Path) -> Iterator[Path]:
    """A folder, and the folders of the dataset's names in it; of any name, a lone one."""
    yield folder
    inner = [path for path in _listed(folder) if path.is_dir()]
    if facts.folders:
        yield from (path for path in inner if _is_named(facts, path.name))
    elif len(shown := [path for path in inner if path.name[0] not in "._"]) == 1:
        yield shown[0]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, in order of names."""
    with _permission_named():
        return sorted(folder.iterdir())


@contextmanager
def _permission_named() -> Iterator[None]:
    """Where something may not be read, say what to do."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"No permission to read {error.filename}. Give yourself access to it."
        ) from error


def _archives(facts: DatasetFacts, root: Path) -> Iterator[Path]:
    """The archives of the dataset's names in a root."""
    for file in _listed(root) if root.is_dir() else ():
        if stem(file.name) and _is_named(facts, file.name) and file.is_file():
            yield file
