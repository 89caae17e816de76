"""How datasets lie on disk: a reader for each layout, and the layouts as rows at the end."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets import CIFAR100

from .images import ImageFiles, LabelledImages, is_image_name

Files = list[tuple[str, int]]  # (name below the root, class id)
TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Split:
    """Training and test images of a dataset, checked."""

    root: Path  # their folder
    kind: str  # how they were divided
    class_names: list[str]  # by class id
    train: LabelledImages
    test: LabelledImages

    def __post_init__(self) -> None:
        trained = set(self.train.targets)
        if not trained | set(self.test.targets) <= set(range(len(self.class_names))):
            raise ValueError(f"there are labels beyond the {len(self.class_names)} classes")
        for i, name in enumerate(self.class_names):
            if i not in trained:
                raise ValueError(f"class {name!r} has no training image")
        if not self.test.targets:
            raise ValueError("there is no test image")


class Layout(NamedTuple):
    """A layout: what the argument ``split`` calls its division, and its reader.

    The reader returns None for a folder with another layout. For a broken folder with this one, it
    may raise anything.
    """

    split: str
    read: Callable[[Path], Split | None]


def split_by_hash(classes: Mapping[str, list[str]]) -> tuple[Files, Files]:
    """80 % of each class for training and 20 % for testing, at least one image for each.

    The images of a class are sorted by the SHA-256 of ``class/file`` in Unicode NFC, and the first
    ones train: the same on every machine, whatever the order or dates of the files.

    Args:
        classes: class folder to the names of its images.
    """

    def digest(name: str) -> bytes:
        normal = unicodedata.normalize("NFC", name)
        return hashlib.sha256(normal.encode("utf-8", "surrogateescape")).digest()

    train: Files = []
    test: Files = []
    for label, (folder, images) in enumerate(classes.items()):
        if len(images) < 2:
            raise ValueError(f"class {folder!r} has {len(images)} image(s), a split needs two")
        ordered = sorted(f"{folder}/{image}" for image in images)
        ordered.sort(key=digest)
        n_train = min(max(round(TRAIN_SHARE * len(ordered)), 1), len(ordered) - 1)
        train += [(name, label) for name in sorted(ordered[:n_train])]
        test += [(name, label) for name in sorted(ordered[n_train:])]
    return train, test


def list_classes(root: Path) -> dict[str, list[str]]:
    """Class folder to the names of its images, both sorted; other files are skipped."""
    with os.scandir(root) as entries:
        folders = [e for e in entries if e.is_dir() and not e.name.startswith((".", "__MACOSX"))]
    classes = {}
    for folder in sorted(folders, key=lambda e: unicodedata.normalize("NFC", e.name)):
        with os.scandir(folder.path) as entries:
            classes[folder.name] = sorted(
                e.name for e in entries if is_image_name(e.name) and e.is_file()
            )
    return classes


def _read_class_folders(root: Path) -> Split | None:
    """``<class>/<image>``, split by hash."""
    if _part_folders(root):
        return None
    if root.name in ("train", "test", "val") and _part_folders(root.parent):
        raise ValueError(f"it is one part of a split; give {str(root.parent)!r}")
    classes = list_classes(root)
    empty = [name for name, images in classes.items() if not images]
    if len(classes) < 2 or len(empty) > len(classes) / 2:
        return None
    if empty:
        raise ValueError(f"class {empty[0]!r} has no image")
    train, test = (ImageFiles(root, files) for files in split_by_hash(classes))
    return Split(root, "80/20 by name hash", list(classes), train, test)


def _read_train_test_folders(root: Path) -> Split | None:
    """``train/<class>/<image>``, and ``test/`` or ``val/`` with the same classes."""
    folders = _part_folders(root)
    if not folders:
        return None
    train, test = (list_classes(root / name) for name in folders)
    both = " and ".join(folders)
    for name in sorted({*train, *test}):
        if not (train.get(name) and test.get(name)):
            raise ValueError(f"class {name!r} needs images in both {both}")
    parts = []
    for folder, classes in zip(folders, (train, test), strict=True):
        rows = [(f"{folder}/{c}/{image}", y) for y, c in enumerate(train) for image in classes[c]]
        parts.append(ImageFiles(root, rows))
    return Split(root, f"{both} folders", list(train), *parts)


def _part_folders(root: Path) -> list[str]:
    """The names of the training and the test folder; empty where one is missing."""
    found = [name for name in ("train", "test", "val") if (root / name).is_dir()]
    if len(found) == 3:
        raise ValueError("there are both test and val folders; move one of them away")
    return found if len(found) == 2 and found[0] == "train" else []


def _read_cub_tables(root: Path) -> Split | None:
    """CUB's own ``images.txt``, ``image_class_labels.txt`` and ``train_test_split.txt``."""
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    if not all((root / name).is_file() for name in names):
        return None
    tables = []
    for name in names:
        lines = (root / name).read_text().splitlines()
        pairs = (line.split(maxsplit=1) for line in lines if line.strip())
        tables.append({number: value.strip() for number, value in pairs})
    images, labels, trains, classes = tables
    ids = {number: i for i, number in enumerate(sorted(classes, key=int))}
    parts: dict[str, Files] = {"1": [], "0": []}  # for training or not
    for number in images:
        parts[trains[number]].append((f"images/{images[number]}", ids[labels[number]]))
    return _listed(root, [classes[number] for number in ids], parts["1"], parts["0"])


def _read_cars_devkit(root: Path) -> Split | None:
    """Torchvision's ``cars_train``, ``cars_test``, ``devkit`` and labels of the test images."""
    tables = {
        "cars_train": root / "devkit" / "cars_train_annos.mat",
        "cars_test": root / "cars_test_annos_withlabels.mat",
    }
    if not all((root / folder).is_dir() for folder in tables):
        return None
    from scipy.io import loadmat  # slow to import, and for Cars only

    def variables(file: Path) -> Any:
        return loadmat(BytesIO(file.read_bytes()), squeeze_me=True)

    meta = variables(root / "devkit" / "cars_meta.mat")
    parts = []
    for folder, table in tables.items():
        rows = variables(table)["annotations"].ravel()
        parts.append([(f"{folder}/{row['fname']}", int(row["class"]) - 1) for row in rows])
    return _listed(root, [str(name) for name in meta["class_names"].ravel()], *parts)


def _listed(root: Path, class_names: list[str], train: Files, test: Files) -> Split:
    """The official split of files that tables list, all of which must be there."""
    names = [name for name, _ in train + test]
    folders = {os.path.dirname(name) for name in names}
    there = {f"{folder}/{name}" for folder in folders for name in os.listdir(root / folder)}
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"{len(missing)} images are missing, the first is {missing[0]!r}")
    return Split(root, "official", class_names, ImageFiles(root, train), ImageFiles(root, test))


class CifarBatches(CIFAR100):
    """Torchvision's dataset, which checks the files' md5; its root is their folder itself."""

    base_folder = ""

    @property
    def names(self) -> list[str]:
        """Numbers: the images have no names."""
        return [f"image {i}" for i in range(len(self.targets))]


def _read_cifar_batches(root: Path) -> Split | None:
    """The files ``train``, ``test`` and ``meta`` of CIFAR-100's python version."""
    if not all((root / name).is_file() for name in ("train", "test", "meta")):
        return None
    train, test = CifarBatches(root, train=True), CifarBatches(root, train=False)
    return Split(root, "official", train.classes, train, test)


CUB_TABLES = Layout("official", _read_cub_tables)
CARS_DEVKIT = Layout("official", _read_cars_devkit)
CIFAR_BATCHES = Layout("official", _read_cifar_batches)
TRAIN_TEST_FOLDERS = Layout("processed", _read_train_test_folders)
CLASS_FOLDERS = Layout("hash", _read_class_folders)
