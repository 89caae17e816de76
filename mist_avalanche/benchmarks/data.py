"""Actions of ``mist-avalanche data``: list the datasets, get one, check a copy."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm.auto import tqdm

from ..utils import nearest_first
from .find import Dataset, data_folder, find, find_archives
from .image_benchmarks import IMAGE_BENCHMARKS, SplitFolder
from .images import ImageFiles, is_rotated

_FLAT = 16  # range of pixel values (of 255) below which an image is wrongly scaled or empty
DATASETS = {b.name: b for b in IMAGE_BENCHMARKS if b is not SplitFolder}


def listing(root: str | Path | None = None) -> str:
    """A table of the datasets: name, classes, download size, and location of a copy."""
    where, rows = data_folder(root), []
    for dataset in DATASETS.values():
        size = f"{dataset.size / 1e9:.2f} GB" if dataset.url else "by hand"
        try:
            found = find(dataset, where, unpacking=False)
            copy = f"{found.root} ({dataset.split_name(found)})"
        except FileNotFoundError:
            archives = find_archives(dataset, where)
            copy = f"{archives[0]}, not unpacked yet" if archives else f"none in {where}"
        except (ValueError, OSError) as error:
            copy = str(error)
        rows.append((dataset.name, dataset.n_classes, size, copy))
    return tabulate(rows, ("name", "classes", "download", "copy"), "plain", numalign="left")


def get(name: str, root: str | Path | None = None, *, progress: bool = True) -> Path:
    """The folder of a dataset, downloaded from its official source unless there is a copy.

    Raises:
        FileNotFoundError: the dataset cannot be downloaded; the message says where to get it.
        ValueError: the name is unknown, or the download is not the official archive.
        OSError: there is no permission, disk space or network.
    """
    return find(_dataset(name), root, download=True, progress=progress).root


def check(
    name: str, root: str | Path | None = None, split: str | None = None, *, progress: bool = True
) -> tuple[str, bool]:
    """Read every image of a copy of a dataset, or of a ``"folder"``.

    Returns:
        A report, and whether the copy is complete and every image readable and in one part only.

    Raises:
        FileNotFoundError: there is no copy.
        ValueError: the name is unknown, or the copy cannot be used at all.
    """
    dataset = SplitFolder if name == SplitFolder.name else _dataset(name)
    found = find(dataset, root, split)
    unreadable, flat, n_rotated = list[str](), list[str](), 0
    names: list[dict[bytes, str]] = []  # training and test images: pixel hash -> name
    for images in (found.train, found.test):
        names.append({})
        for i in tqdm(range(len(images)), desc=f"Checking {name}", disable=not progress):
            try:
                image, _ = images[i]
            except (ValueError, OSError) as error:
                unreadable.append(str(error))
            else:
                if np.ptp(image, axis=(0, 1)).max() < _FLAT:
                    flat.append(images.names[i])
                if isinstance(images, ImageFiles):
                    n_rotated += is_rotated(images.root / images.names[i])
                pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes())
                names[-1][pixels.digest()] = images.names[i]
    train, test = names
    duplicates = sorted(f"{train[px]} = {test[px]}" for px in train.keys() & test.keys())
    differences = dataset.differences(found)
    lines = [
        f"folder      {found.root}",
        f"split       {dataset.split_name(found)}",
        f"classes     {len(found.class_names)}",
        f"images      {len(found.train)} for training, {len(found.test)} for testing",
        f"complete    {'no: ' + '; '.join(differences) if differences else 'yes'}",
        *(f"note        {note}" for note in found.notes),
        *_problems("unreadable", unreadable),
        *_problems("duplicates", duplicates, "between training and test"),
        *_problems("flat", flat, "of one colour, or nearly"),
        f"rotated     {n_rotated} by their EXIF data, which are not applied",
    ]
    return "\n".join(lines), not (differences or unreadable or duplicates)


def _problems(title: str, found: Sequence[str], what: str = "") -> list[str]:
    """Rows of a report: the number of problems, and the first few."""
    shown = [f"{'':12}{problem}" for problem in found[:20]]
    return [f"{title:12}{len(found)} {what}".rstrip(), *shown]


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise ValueError(f"Unknown dataset {name!r}. Use one of {nearest_first(name, DATASETS)}.")
    return DATASETS[name]
