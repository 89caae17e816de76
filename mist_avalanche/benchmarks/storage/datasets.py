"""The image datasets on disk: which there are, getting one, and checking a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from ..._support.progress import hidden
from .catalog import DATASETS, FOLDER, DatasetFacts
from .find import data_folder, find, split_name, unlike


@dataclass(frozen=True)
class DataReport:
    """What a copy of a dataset holds.

    Args:
        root: the folder that was recognised.
        split: how training and test images are divided.
        classes: number of classes.
        train: number of training images.
        test: number of test images.
        others: files and folders that are no images by their names.
        unreadable: images that cannot be decoded, each with the reason.
        duplicates: pairs of a training and a test image of the same content.
        missing: what the dataset has and this copy has not, or the other way round.
    """

    root: Path
    split: str
    classes: int
    train: int
    test: int
    others: int
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether it is whole, every image can be read and none is in both parts."""
        return not self.unreadable and not self.duplicates and not self.missing

    def __str__(self) -> str:
        lines = [
            f"folder      {self.root}",
            f"split       {self.split}",
            f"classes     {self.classes}",
            f"images      {self.train} for training, {self.test} for testing",
            f"complete    {'no: ' + '; '.join(self.missing) if self.missing else 'yes'}",
            f"other files {self.others}, skipped",
            f"unreadable  {len(self.unreadable)}",
            *(f"            {problem}" for problem in self.unreadable[:20]),
            f"duplicates  {len(self.duplicates)} between training and test",
            *(f"            {train} = {test}" for train, test in self.duplicates[:20]),
        ]
        return "\n".join(lines)


def facts_of(name: str, datasets: Mapping[str, DatasetFacts] = DATASETS) -> DatasetFacts:
    """A dataset by its name.

    Raises:
        ValueError: there is no such dataset.
    """
    if name == FOLDER.name:
        return FOLDER
    if name not in datasets:
        raise ValueError(f"Unknown dataset {name!r}. Use one of {', '.join(datasets)}.")
    return datasets[name]


def get(name: str, root: str | Path | None = None, *, progress: bool = True) -> Path:
    """Download and unpack a dataset from its official source, unless a copy is there.

    Args:
        name: of the dataset.
        root: folder; None for Avalanche's data folder.
        progress: show progress bars.

    Returns:
        The folder of the dataset.

    Raises:
        FileNotFoundError: it cannot be downloaded; the message says where copies are.
        OSError: no permission, space or network.
        ValueError: unknown name, or the download is not what it should be.
    """
    return find(facts_of(name), root, download=True, progress=progress).root


def check(
    name: str, root: str | Path | None = None, split: str | None = None, *, progress: bool = True
) -> DataReport:
    """Read every image of a copy.

    Args:
        name: of the dataset.
        root: folder or archive; None for Avalanche's data folder.
        split: as for the benchmark.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: there is no copy.
        ValueError: unknown name, or a copy that cannot be used at all.
    """
    facts = facts_of(name)
    found = find(facts, root, split=split, progress=progress)
    unreadable: list[str] = []
    digests: list[dict[bytes, str]] = []
    total = len(found.train) + len(found.test)
    with tqdm(total=total, desc=f"Checking {name}", disable=hidden(progress), leave=False) as bar:
        for images in (found.train, found.test):
            seen: dict[bytes, str] = {}
            for i in range(len(images)):
                try:
                    images[i]
                    seen[hashlib.sha256(images.content(i)).digest()] = images.name(i)
                except (ValueError, OSError) as error:
                    unreadable.append(str(error))
                bar.update()
            digests.append(seen)
    train, test = digests
    return DataReport(
        found.root,
        split_name(facts, found),
        len(found.class_names),
        len(found.train),
        len(found.test),
        found.others,
        unreadable,
        sorted((train[digest], test[digest]) for digest in train.keys() & test.keys()),
        [f"{facts.title} has {wanted} {what}" for what, wanted, _ in unlike(facts, found)],
    )


def listing(root: str | Path | None = None) -> str:
    """A table of all datasets: name, classes, size of the download, and whether a copy is there."""
    rows = [("name", "classes", "download", "copy")]
    for name, facts in DATASETS.items():
        size = f"{facts.remote.size / 1e9:.2f} GB" if facts.remote else "by hand"
        where = data_folder(root)
        try:
            found = find(facts, where, progress=False, unpacking=False)
            copy = f"{found.root} ({split_name(facts, found)})"
        except FileNotFoundError:
            copy = f"none in {where}"
        except (ValueError, OSError) as error:
            copy = str(error)
        rows.append((name, str(facts.n_classes), size, copy))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )
