"""Layouts of datasets on disk: a reader for each, and a table of layouts at the end."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets import CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS

from .images import ImageFiles, is_image_name, normal_form

Files = list[tuple[str, int]]  # (path relative to the root, class id)
TRAIN_SHARE = 0.8
_HIDDEN = (".", "__MACOSX", "Thumbs.db", "desktop.ini")  # prefixes of names
_PARTS = re.compile(r"(?<![a-z])(train|training|test|testing|val|valid|validation|dev)(?![a-z])")


@dataclass(frozen=True)
class Split:
    """Training and test images of a dataset, checked."""

    root: Path  # their folder
    kind: str  # kind of split
    class_names: list[str]  # by class id
    train: Any  # items (RGB image, class id), with ``targets`` and ``names``
    test: Any
    notes: Sequence[str] = ()  # things that a user may not expect

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
    """Its name in the argument ``split``, and its reader.

    A reader returns None for a folder with another layout, and may raise anything for a broken one.
    """

    split: str
    read: Callable[[Path], Split | None]


def split_by_hash(classes: Mapping[str, list[str]]) -> tuple[Files, Files]:
    """Split each class: 80 % for training and 20 % for testing, at least one image each.

    The images of a class are sorted by the SHA-256 of ``class/file`` in Unicode NFC, and the first
    ones are for training. The split is the same on every machine.

    Args:
        classes: class name to its images, ``class/file``.
    """

    def digest(name: str) -> bytes:
        return hashlib.sha256(normal_form(name).encode("utf-8", "surrogateescape")).digest()

    train: Files = []
    test: Files = []
    for label, (name, images) in enumerate(classes.items()):
        if len(images) < 2:
            raise ValueError(f"class {name!r} has {len(images)} image(s); a split needs two")
        ordered = sorted(sorted(images), key=digest)
        n_train = min(max(round(TRAIN_SHARE * len(ordered)), 1), len(ordered) - 1)
        train += [(image, label) for image in sorted(ordered[:n_train])]
        test += [(image, label) for image in sorted(ordered[n_train:])]
    return train, test


def list_classes(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The class folders in a folder, their images at any depth, and notes for the user.

    Like ImageFolder. Class names are in Unicode NFC, image paths are relative to the folder, and
    both are sorted.

    Raises:
        ValueError: a class has no image or two folders, or a link is broken or leads back.
    """
    classes: dict[str, list[str]] = {}
    skipped: Counter[str] = Counter()
    for folder in sorted(class_folders(root), key=lambda e: normal_form(e.name)):
        name, files = normal_form(folder.name), sorted(_files_in(folder.path, f"{folder.name}/"))
        if name in classes:
            raise ValueError(f"class {name!r} has two folders, in two Unicode forms; merge them")
        classes[name] = [file for file in files if is_image_name(os.path.basename(file))]
        others = Counter(os.path.splitext(f)[1].lower() for f in {*files} - {*classes[name]})
        if not classes[name]:
            has = f" but {_counted(others)}" if others else ""
            raise ValueError(f"class {name!r} has no image in {folder.path!r}{has}")
        skipped += others
    images = [image for names in classes.values() for image in names]
    deeper = sum(image.count("/") > 1 for image in images)
    beside = sum(entry.is_file() and is_image_name(entry.name) for entry in _entries(root))
    notes = {
        f"{beside} images beside the class folders are not used": beside,
        f"{deeper} of {len(images)} images lie in folders within their class folder; if these are "
        "the classes, give the folder that contains them": deeper,
        f"files skipped by their suffix: {_counted(skipped)}": skipped,
    }
    return classes, [note for note, is_so in notes.items() if is_so]


def class_folders(root: Path) -> list[os.DirEntry[str]]:
    """The visible subfolders of a folder."""
    return [entry for entry in _entries(root) if entry.is_dir()]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The visible entries of a folder; ValueError if a link is broken."""
    with os.scandir(folder) as entries:
        shown = [e for e in entries if not e.name.startswith(_HIDDEN)]
    for entry in shown:
        if entry.is_symlink() and not os.path.exists(entry.path):
            target = os.readlink(entry.path)
            raise ValueError(f"{entry.path!r} is a link to {target!r}, which is gone; restore it")
    return shown


def _files_in(folder: str, below: str, outer: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of the files in a folder and its subfolders; links are followed."""
    outer = (*outer, os.path.realpath(folder))
    for entry in _entries(folder):
        if not entry.is_dir():
            yield below + entry.name
        elif os.path.realpath(entry.path) in outer:
            raise ValueError(f"{entry.path!r} is a link to a folder that contains it; remove it")
        else:
            yield from _files_in(entry.path, f"{below}{entry.name}/", outer)


def _counted(suffixes: Counter[str]) -> str:
    counts = ", ".join(f"{n} {suffix or 'without one'}" for suffix, n in suffixes.most_common())
    return f"{counts}; images are {' '.join(IMG_EXTENSIONS)}"


def _read_class_folders(root: Path) -> Split | None:
    """``<class>/<image>``, split by hash."""
    names = {entry.name for entry in class_folders(root)}
    if len(names) < 2 or ("train" in names and names & {"test", "val"}):
        return None
    if len(parts := [name for name in sorted(names) if _PARTS.search(name.lower())]) > 1:
        raise ValueError(
            f"{' and '.join(parts)} are parts of a split, not classes; name them train and test "
            "(or val)"
        )
    whole = None
    if _PARTS.search(root.name.lower()):
        with suppress(ValueError):  # the other parts have no classes
            whole = _read_tiny_imagenet(root.parent) or _read_train_test_folders(root.parent)
    if whole:
        raise ValueError(f"it is one part of a split; give {str(root.parent)!r}")
    classes, notes = list_classes(root)
    train, test = (ImageFiles(root, files) for files in split_by_hash(classes))
    return Split(root, "80/20 by name hash", [*classes], train, test, notes)


def _read_train_test_folders(root: Path) -> Split | None:
    """``train/<class>/<image>``, and ``test/`` or ``val/`` with the same classes."""
    folders = [name for name in ("train", "test", "val") if (root / name).is_dir()]
    if folders[:1] != ["train"] or len(folders) == 1:
        return None
    names = {part: {normal_form(e.name) for e in class_folders(root / part)} for part in folders}
    tests = [part for part in folders[1:] if names[part] & names["train"]]
    if len(tests) > 1:
        raise ValueError("there are both test and val folders; move one of them elsewhere")
    if not tests:
        raise ValueError(
            f"{' and '.join(folders)} have no class in common; arrange them as class folders with "
            f"the same names, or give {str(root / 'train')!r}, which is then split"
        )
    both = f"train and {tests[0]}"
    for name in sorted(names["train"] ^ names[tests[0]]):
        raise ValueError(f"class {name!r} needs images in both {both}")
    unused = {entry.name for entry in class_folders(root)} - {"train", *tests}
    notes = [f"the folder {name} is not used" for name in sorted(unused)]
    parts: list[ImageFiles] = []
    for part in ("train", tests[0]):
        classes, of_part = list_classes(root / part)
        rows = [(f"{part}/{image}", y) for y, c in enumerate(classes) for image in classes[c]]
        parts.append(ImageFiles(root, rows))
        notes += [f"in {part}, {note}" for note in of_part]
    return Split(root, f"{both} folders", [*classes], parts[0], parts[1], notes)


def _read_tiny_imagenet(root: Path) -> Split | None:
    """Tiny ImageNet: ``train/<class>/images``, and ``val/images`` with a table of classes."""
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        return None
    train, notes = list_classes(root / "train")
    notes = [note for note in notes if "lie in folders" not in note]  # normal in this layout
    ids = {name: y for y, name in enumerate(train)}
    rows = [(f"train/{image}", y) for c, y in ids.items() for image in train[c]]
    lines = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    tests = [(f"val/images/{image}", ids[name]) for image, name, *_ in lines]
    return _listed(root, [*train], rows, tests, notes)


def _read_cub_tables(root: Path) -> Split | None:
    """CUB's own ``images.txt``, ``image_class_labels.txt`` and ``train_test_split.txt``."""
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    if not all((root / name).is_file() for name in names):
        return None
    tables = []
    for name in names:
        lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
        pairs = (line.split(maxsplit=1) for line in lines if line.strip())
        tables.append({number: value.strip() for number, value in pairs})
    images, labels, trains, classes = tables
    ids = {number: i for i, number in enumerate(sorted(classes, key=int))}
    parts: dict[str, Files] = {"1": [], "0": []}  # "1": training, "0": test
    for number in images:
        parts[trains[number]].append((f"images/{images[number]}", ids[labels[number]]))
    return _listed(root, [classes[number] for number in ids], parts["1"], parts["0"])


def _read_cars_devkit(root: Path) -> Split | None:
    """Torchvision's ``cars_train``, ``cars_test`` and ``devkit``, with labels of test images."""
    tables = {
        "cars_train": root / "devkit" / "cars_train_annos.mat",
        "cars_test": root / "cars_test_annos_withlabels.mat",
    }
    if not all((root / folder).is_dir() for folder in tables):
        return None
    from scipy.io import loadmat  # slow to import, and only needed for Cars

    def variables(file: Path) -> Any:
        return loadmat(BytesIO(file.read_bytes()), squeeze_me=True)

    meta = variables(root / "devkit" / "cars_meta.mat")
    parts = []
    for folder, table in tables.items():
        rows = variables(table)["annotations"].ravel()
        parts.append([(f"{folder}/{row['fname']}", int(row["class"]) - 1) for row in rows])
    return _listed(root, [str(name) for name in meta["class_names"].ravel()], parts[0], parts[1])


def _listed(
    root: Path, class_names: list[str], train: Files, test: Files, notes: Sequence[str] = ()
) -> Split:
    """The official split of the files listed in tables, all of which must exist."""
    names = [name for name, _ in train + test]
    folders = {os.path.dirname(name) for name in names}
    there = {f"{folder}/{name}" for folder in folders for name in os.listdir(root / folder)}
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"{len(missing)} images are missing; the first is {missing[0]!r}")
    if unlisted := len(
        {name for name in there if is_image_name(os.path.basename(name))} - {*names}
    ):
        notes = [*notes, f"{unlisted} images that the tables do not list are not used"]
    parts = ImageFiles(root, train), ImageFiles(root, test)
    return Split(root, "official", class_names, *parts, notes)


class CifarBatches(CIFAR100):
    """Torchvision's dataset, which checks the files' md5; its root is the folder of the files."""

    base_folder = ""

    @property
    def names(self) -> list[str]:
        """Numbers, because the images have no names."""
        return [f"image {i}" for i in range(len(self.targets))]


def _read_cifar_batches(root: Path) -> Split | None:
    """The files ``train``, ``test`` and ``meta`` of CIFAR-100's python version."""
    if not all((root / name).is_file() for name in ("train", "test", "meta")):
        return None
    train, test = CifarBatches(root, train=True), CifarBatches(root, train=False)
    return Split(root, "official", train.classes, train, test)


CUB_TABLES = Layout("official", _read_cub_tables)
CARS_DEVKIT = Layout("official", _read_cars_devkit)
TINY_IMAGENET = Layout("official", _read_tiny_imagenet)
CIFAR_BATCHES = Layout("official", _read_cifar_batches)
TRAIN_TEST_FOLDERS = Layout("processed", _read_train_test_folders)
CLASS_FOLDERS = Layout("hash", _read_class_folders)
