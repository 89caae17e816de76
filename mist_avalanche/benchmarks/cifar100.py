"""SplitCIFAR100: CIFAR-100 enlarged for pretrained ViTs (Krizhevsky, 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from avalanche.benchmarks import NCScenario

from ._catalog import CIFAR100
from ._image_benchmark import image_benchmark
from ._stream import Transform
from ._transforms import center_crop, random_crops


def SplitCIFAR100(
    n_experiences: int = 10,
    *,
    dataset_root: str | Path | None = None,
    split: Literal["official", "processed"] | None = None,
    image_size: int = 224,
    seed: int | None = 1993,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
    download: bool = False,
) -> NCScenario:
    """60000 photographs of 100 classes, 32 pixels a side, enlarged, in [0, 1].

    Args:
        n_experiences: number of experiences.
        dataset_root: a folder with cifar-100-python as a folder or .tar.gz, or one of these itself.
            None for Avalanche's data folder.
        split: ``"official"`` for the python version, 50000 / 10000; ``"processed"`` for train and
            test folders. None takes the first of these that is there.
        image_size: pixels a side that the default transforms give.
        seed: of the class order; 1993 gives the published one.
        fixed_class_order: the official label numbers, by appearance.
        shuffle: False keeps the order of the ids.
        train_transform: of a training image (PIL, RGB); None for the published random crop.
        eval_transform: of a test image; None for the centre of the shorter side at 8/7 of the size.
        download: fetch the official archive when there is no copy.

    Raises:
        FileNotFoundError: there is no copy, or none with that split; the message says what to get.
        ValueError: broken data, or an impossible order or number of experiences.
        OSError: no permission, no space or no network.
    """
    return image_benchmark(
        CIFAR100,
        n_experiences,
        dataset_root=dataset_root,
        split=split,
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform or random_crops(image_size),
        eval_transform=eval_transform or center_crop(image_size),
        download=download,
    )
