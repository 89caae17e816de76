"""The layouts that people have on disk: each recognised, and read into the same few facts."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from .images import ArrayImages, ImageFiles, LabelledImages
from .index import ClassFolders, list_class_folders
from .tables import read_arrays, read_matlab, read_table

TRAIN_SHARE = 0.8
_TEST_FOLDERS = ("test", "val")
_Files = list[tuple[str, int]]  # names below the root, class ids


@dataclass(frozen=True)
class Split:
    """A dataset's images, divided into training and test.

    Args:
        root: the folder that they were found in.
        kind: how the division came about, for ``split_name``.
        class_names: by class id, in sorted order of the folders.
        train: images and class ids.
        test: images and class ids.
        others: files and folders that are no images by their names, and were skipped.
    """

    root: Path
    kind: str
    class_names: list[str]
    train: LabelledImages = field(repr=False)
    test: LabelledImages = field(repr=False)
    others: int = 0

    def __post_init__(self) -> None:
        """Every label is a class, and every class has images to train on."""
        trained = set(self.train.targets)
        labels = trained | set(self.test.targets)
        if not labels <= set(range(len(self.class_names))):
            raise ValueError(
                f"{self.root} has labels beyond its {len(self.class_names)} classes. Get the "
                "dataset again."
            )
        missing = [name for i, name in enumerate(self.class_names) if i not in trained]
        if missing or not self.test.targets:
            what = f"class {missing[0]!r} has no training image" if missing else "no test image"
            raise ValueError(f"{self.root}: {what}. Get the dataset again.")

    @property
    def n_images(self) -> int:
        """Training and test images together."""
        return len(self.train) + len(self.test)


def split_by_hash(classes: Mapping[str, list[str]]) -> tuple[_Files, _Files]:
    """80 % of each class for training and 20 % for testing, at least one image in each.

    Within a class, images are ordered by the SHA-256 of ``class/file`` in Unicode NFC, and the
    first ones train: the same on every machine, whatever the order or dates of the files.

    Args:
        classes: class folder to its images.

    Raises:
        ValueError: a class has fewer than two images.
    """
    train: _Files = []
    test: _Files = []
    for label, (folder, images) in enumerate(classes.items()):
        if len(images) < 2:
            raise ValueError(
                f"Class {folder!r} has {len(images)} image(s); a split needs two at least. Add "
                "some, or remove the class."
            )
        ordered = sorted(f"{folder}/{image}" for image in images)
        ordered.sort(key=_digest)
        n_train = min(max(round(TRAIN_SHARE * len(ordered)), 1), len(ordered) - 1)
        train += [(name, label) for name in sorted(ordered[:n_train])]
        test += [(name, label) for name in sorted(ordered[n_train:])]
    return train, test


def _digest(name: str) -> bytes:
    return hashlib.sha256(
        unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    ).digest()


def class_folders(root: Path) -> Split | None:
    """``<class>/<image>``, as ImageNet-R and -A come: split by hash."""
    if _split_folders(root) is not None:
        return None
    listed = list_class_folders(root)
    if root.name in ("train", *_TEST_FOLDERS) and _split_folders(root.parent) is not None:
        raise ValueError(f"{root} is a part of a split. Give {str(root.parent)!r}.")
    if len(listed.images) < 2 or len(listed.empty) > len(listed.images) / 2:
        return None
    _refuse_empty(root, listed)
    train, test = split_by_hash(listed.images)
    return _split(root, "80/20 by name hash", list(listed.images), train, test, listed.others)


def train_test_folders(root: Path) -> Split | None:
    """``train/<class>/<image>`` and ``test/`` or ``val/`` of the same classes."""
    folders = _split_folders(root)
    if folders is None:
        return None
    parts = {name: list_class_folders(root / name) for name in folders}
    for name, listed in parts.items():
        _refuse_empty(root / name, listed)
    train, test = parts.values()
    only = sorted(train.images.keys() ^ test.images.keys())
    if only or not train.images:
        where = folders[0] if only and only[0] in train.images else folders[1]
        raise ValueError(
            f"{root} has {only[0]!r} in {where} only, {len(only)} such class(es) in all. Training "
            "and test folder must have the same classes."
            if only
            else f"{root / folders[0]} has no class folders."
        )
    names = list(train.images)

    def files(folder: str, listed: ClassFolders) -> _Files:
        return [
            (f"{folder}/{c}/{image}", i) for i, c in enumerate(names) for image in listed.images[c]
        ]

    return _split(
        root,
        f"{folders[0]} and {folders[1]} folders",
        names,
        files(folders[0], train),
        files(folders[1], test),
        train.others + test.others,
    )


def cub_official(root: Path) -> Split | None:
    """CUB's own ``images.txt``, ``image_class_labels.txt`` and ``train_test_split.txt``."""
    tables = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    if not all((root / table).is_file() for table in tables):
        return None
    images, labels, trains, classes = (read_table(root / table) for table in tables)
    if not images.keys() == labels.keys() == trains.keys():
        raise ValueError(f"The tables of {root} list different images. Get the dataset again.")
    ids = {number: i for i, number in enumerate(sorted(classes, key=int))}
    rows = [(f"images/{images[n]}", ids[labels[n]], trains[n] == "1") for n in images]
    listed = list_class_folders(root / "images")
    there = {f"images/{c}/{image}" for c, files in listed.images.items() for image in files}
    missing = sorted({name for name, _, _ in rows} - there)
    if missing:
        raise ValueError(
            f"{root} lacks {len(missing)} images that its tables list, the first {missing[0]!r}. "
            "Get the dataset again."
        )
    train, test = ([(name, c) for name, c, t in rows if t is wanted] for wanted in (True, False))
    names = [classes[number] for number in ids]
    return _split(root, "official", names, train, test, listed.others)


def cars_devkit(root: Path) -> Split | None:
    """Torchvision's ``cars_train``, ``cars_test``, ``devkit`` and the labels of the test images."""
    annotations = {
        "cars_train": root / "devkit" / "cars_train_annos.mat",
        "cars_test": root / "cars_test_annos_withlabels.mat",
    }
    meta = root / "devkit" / "cars_meta.mat"
    if not meta.is_file() and not all((root / name).is_dir() for name in annotations):
        return None
    missing = [path for path in (meta, *annotations.values()) if not path.is_file()]
    missing += [root / name for name in annotations if not (root / name).is_dir()]
    if missing:
        raise ValueError(f"{root} lacks {missing[0].relative_to(root)} of Stanford Cars. Add it.")
    class_names = [str(name) for name in read_matlab(meta)["class_names"].ravel()]
    parts = []
    for folder, file in annotations.items():
        rows = read_matlab(file)["annotations"].ravel()
        files = [(f"{folder}/{row['fname']}", int(row["class"]) - 1) for row in rows]
        there = {f"{folder}/{name}" for name in os.listdir(root / folder)}
        lost = [name for name, _ in files if name not in there]
        if lost:
            raise ValueError(
                f"{root} lacks {len(lost)} images that {file.name} lists, the first {lost[0]!r}. "
                "Get the dataset again."
            )
        parts.append(files)
    return _split(root, "official", class_names, parts[0], parts[1])


def cifar_python(root: Path) -> Split | None:
    """The files ``train``, ``test`` and ``meta`` of CIFAR-100's python version."""
    if not all((root / name).is_file() for name in ("train", "test", "meta")):
        return None
    names = [str(name) for name in read_arrays(root / "meta")["fine_label_names"]]
    parts = []
    for name in ("train", "test"):
        batch = read_arrays(root / name)
        images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (n, H, W, 3)
        parts.append(ArrayImages(images, [int(label) for label in batch["fine_labels"]]))
    return Split(root, "official", names, parts[0], parts[1])


def _split(
    root: Path, kind: str, class_names: list[str], train: _Files, test: _Files, others: int = 0
) -> Split:
    return Split(root, kind, class_names, ImageFiles(root, train), ImageFiles(root, test), others)


LAYOUTS: Mapping[str, Callable[[Path], Split | None]] = MappingProxyType(
    {
        "official": cub_official,
        "devkit": cars_devkit,
        "python": cifar_python,
        "folders": train_test_folders,
        "classes": class_folders,
    }
)


def _split_folders(root: Path) -> tuple[str, str] | None:
    """The names of the training and test folder."""
    if not (root / "train").is_dir():
        return None
    tests = [name for name in _TEST_FOLDERS if (root / name).is_dir()]
    if len(tests) > 1:
        raise ValueError(
            f"{root} has {' and '.join(tests)}: which of them is for testing is not known. Move "
            "the other one away."
        )
    return ("train", tests[0]) if tests else None


def _refuse_empty(root: Path, listed: ClassFolders) -> None:
    if listed.empty:
        raise ValueError(
            f"{root / listed.empty[0]} has no image, as {len(listed.empty)} of "
            f"{len(listed.images)} class folders of {root}. Get them again, or remove them."
        )
