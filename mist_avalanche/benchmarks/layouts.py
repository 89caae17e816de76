"""How datasets lie on disk: a reader for each layout, and the layouts as rows at the end."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets import CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS

from .images import ImageFiles, LabelledImages, is_image_name, normal_form

Files = list[tuple[str, int]]  # (name below the root, class id)
TRAIN_SHARE = 0.8
_READ = f"images are {' '.join(IMG_EXTENSIONS)}"
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")
_PARTS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


@dataclass(frozen=True)
class Split:
    """Training and test images of a dataset, checked."""

    root: Path  # their folder
    kind: str  # how they were divided
    class_names: list[str]  # by class id
    train: LabelledImages
    test: LabelledImages
    notes: Sequence[str] = ()  # on what a user may not expect

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
        return hashlib.sha256(normal_form(name).encode("utf-8", "surrogateescape")).digest()

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


class Listing(NamedTuple):
    """Class folders, and what is in them."""

    classes: dict[str, list[str]]  # folder to the names of its images below it, both sorted
    skipped: dict[str, Counter[str]]  # folder to its other files, by suffix
    notes: list[str]  # what a user may not expect

    def without_images(self, folder: str) -> str:
        """What is wrong with a class folder without images."""
        others = _counted(self.skipped[folder])
        return f"class {folder!r} has no image" + (f" but {others}; {_READ}" if others else "")


def list_classes(root: Path) -> Listing:
    """The class folders in a folder and the images in them, at any depth, as in ImageFolder.

    Raises:
        ValueError: a link leads nowhere, or two folders have one name in two Unicode forms.
    """
    classes: dict[str, list[str]] = {}
    skipped: dict[str, Counter[str]] = {}
    for folder in sorted(class_folders(root), key=lambda e: normal_form(e.name)):
        if normal_form(folder.name) in map(normal_form, classes):
            raise ValueError(
                f"the class folders {folder.name!r} have one name in two Unicode forms; merge them"
            )
        names = sorted(_files_in(folder.path))
        classes[folder.name] = [name for name in names if is_image_name(os.path.basename(name))]
        others = {*names} - {*classes[folder.name]}
        skipped[folder.name] = Counter(map(_suffix, others))
    images = [name for names in classes.values() for name in names]
    deeper = sum("/" in name for name in images)
    beside = sum(entry.is_file() and is_image_name(entry.name) for entry in os.scandir(root))
    notes = [f"{beside} images beside the class folders are not used"] if beside else []
    if deeper:
        notes.append(f"{deeper} of {len(images)} images lie in folders within their class folder")
    if counted := _counted(sum(skipped.values(), Counter())):
        notes.append(f"files skipped by their suffix: {counted}; {_READ}")
    return Listing(classes, skipped, notes)


def class_folders(root: Path) -> list[os.DirEntry[str]]:
    """The folders in a folder that are not hidden."""
    with os.scandir(root) as entries:
        shown = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    for entry in shown:
        _check_link(entry)
    return [entry for entry in shown if entry.is_dir()]


def _files_in(folder: str, below: str = "", outer: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of the files in a folder and the folders in it; links are followed."""
    outer = (*outer, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _OF_SYSTEMS:
                continue
            _check_link(entry)
            if not entry.is_dir():
                yield below + entry.name
            elif os.path.realpath(entry.path) in outer:
                raise ValueError(f"{entry.path!r} is a link to a folder that it is in; remove it")
            else:
                yield from _files_in(entry.path, f"{below}{entry.name}/", outer)


def _check_link(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise ValueError(
            f"{entry.path!r} is a link to {os.readlink(entry.path)!r}, which does not exist; "
            "restore that or remove the link"
        )


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} {suffix}" for suffix, n in suffixes.most_common())


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _read_class_folders(root: Path) -> Split | None:
    """``<class>/<image>``, split by hash."""
    parts = [e.name for e in class_folders(root) if e.name.lower() in _PARTS]
    if "train" in parts and {"test", "val"} & {*parts}:
        return None
    if len(parts) > 1:
        raise ValueError(
            f"{' and '.join(sorted(parts))} are parts of a split, not classes; name them train and "
            "test (or val)"
        )
    if root.name.lower() in _PARTS and _is_divided(root.parent):
        raise ValueError(f"it is one part of a split; give {str(root.parent)!r}")
    listing = list_classes(root)
    if len(listing.classes) < 2:
        return None
    for name, images in listing.classes.items():
        if not images:
            raise ValueError(listing.without_images(name))
    train, test = (ImageFiles(root, files) for files in split_by_hash(listing.classes))
    return Split(root, "80/20 by name hash", list(listing.classes), train, test, listing.notes)


def _is_divided(root: Path) -> bool:
    """Whether a folder can be read as a training and a test set."""
    for read in (_read_tiny_imagenet, _read_train_test_folders):
        with suppress(ValueError, OSError):
            if read(root):
                return True
    return False


def _read_train_test_folders(root: Path) -> Split | None:
    """``train/<class>/<image>``, and ``test/`` or ``val/`` with the same classes."""
    folders = [name for name in ("train", "test", "val") if (root / name).is_dir()]
    if folders[:1] != ["train"] or len(folders) == 1:
        return None
    found, notes = {name: list_classes(root / name) for name in folders}, list[str]()
    train, *tests = ({normal_form(c): c for c in one.classes} for one in found.values())
    if len(tests) == 2:
        if train.keys() <= tests[0].keys() & tests[1].keys():
            raise ValueError("there are both test and val folders; move one of them away")
        common = [len(train.keys() & test.keys()) for test in tests]
        unused = int(common[0] >= common[1])  # such as a contest's images without classes
        notes.append(f"{folders[1 + unused]} is not used, it has other classes")
        del folders[1 + unused], tests[unused]
    (test,), both = tests, " and ".join(folders)
    if not train.keys() & test.keys():
        raise ValueError(
            f"{both} have no class in common; arrange both as class folders of the same names, or "
            f"give {str(root / 'train')!r}, which is then split"
        )
    parts: list[ImageFiles] = []
    for folder, names in zip(folders, (train, test), strict=True):
        rows: Files = []
        for y, form in enumerate(train | test):
            if form not in names:
                raise ValueError(f"class {form!r} needs images in both {both}")
            if not (images := found[folder].classes[names[form]]):
                raise ValueError(f"in {folder}, {found[folder].without_images(names[form])}")
            rows += [(f"{folder}/{names[form]}/{image}", y) for image in images]
        parts.append(ImageFiles(root, rows))
    notes += [f"in {folder}, {note}" for folder in folders for note in found[folder].notes]
    return Split(root, f"{both} folders", [*train.values()], parts[0], parts[1], notes)


def _read_tiny_imagenet(root: Path) -> Split | None:
    """Tiny ImageNet: ``train/<class>/images``, and ``val/images`` with a table of classes."""
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        return None
    train = list_classes(root / "train").classes
    ids = {name: y for y, name in enumerate(train)}
    rows = [(f"train/{c}/{image}", y) for c, y in ids.items() for image in train[c]]
    lines = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    tests = [(f"val/images/{image}", ids[name]) for image, name, *_ in lines]
    return _listed(root, [*train], rows, tests)


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
TINY_IMAGENET = Layout("official", _read_tiny_imagenet)
CIFAR_BATCHES = Layout("official", _read_cifar_batches)
TRAIN_TEST_FOLDERS = Layout("processed", _read_train_test_folders)
CLASS_FOLDERS = Layout("hash", _read_class_folders)
