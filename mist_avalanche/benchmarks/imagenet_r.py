"""SplitImageNetR: renditions of ImageNet classes (Hendrycks et al., arXiv 2006.16241)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from avalanche.benchmarks import NCScenario

from ._catalog import IMAGENET_R
from ._image_benchmark import image_benchmark
from ._stream import Transform
from ._transforms import center_crop, random_crops


def SplitImageNetR(
    n_experiences: int = 10,
    *,
    dataset_root: str | Path | None = None,
    split: Literal["processed", "hash"] | None = None,
    image_size: int = 224,
    seed: int | None = 1993,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
    download: bool = False,
) -> NCScenario:
    """30000 paintings, cartoons, toys and other renditions of 200 classes, in [0, 1].

    Args:
        n_experiences: number of experiences.
        dataset_root: a folder with imagenet-r as a folder or archive, or one of these itself. None
            for Avalanche's data folder.
        split: ``"processed"`` for train and test folders, as PILOT has them; ``"hash"`` for the
            official archive, which has none: 80 % of each class by the hash of the names. None
            takes the first of these that is there; ``benchmark.split_name`` says which.
        image_size: pixels a side that the default transforms give.
        seed: of the class order; 1993 gives the published one.
        fixed_class_order: class ids, ranks of the sorted folder names, by appearance.
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
        IMAGENET_R,
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
