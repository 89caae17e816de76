"""SplitCars196: Stanford Cars (Krause et al., 3DRR 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from avalanche.benchmarks import NCScenario

from ._catalog import CARS196
from ._image_benchmark import image_benchmark
from ._stream import Transform
from ._transforms import cars_center_crop, cars_crops


def SplitCars196(
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
    """16185 photographs of 196 models of cars, normalised with ImageNet's mean and deviation.

    Args:
        n_experiences: number of experiences.
        dataset_root: a folder with stanford_cars (torchvision's layout) or cars196 (train and test
            or val) as a folder or archive, or one of these itself. None for Avalanche's data
            folder.
        split: ``"official"`` for torchvision's layout, 8144 / 8041; ``"processed"`` for the
            folders. None takes the first of these that is there; ``benchmark.split_name`` says
            which.
        image_size: pixels a side that the default transforms give.
        seed: of the class order; 1993 gives the published one.
        fixed_class_order: class ids, the devkit's less one or ranks of the folder names, by
            appearance.
        shuffle: False keeps the order of the ids.
        train_transform: of a training image (PIL, RGB); None for the published random crop of 300 ×
            300.
        eval_transform: of a test image; None for the centre of the shorter side at 8/7 of the size.
        download: the official source is gone: the error says where copies are.

    Raises:
        FileNotFoundError: there is no copy, or none with that split; the message says what to get.
        ValueError: broken data, or an impossible order or number of experiences.
        OSError: no permission, no space or no network.
    """
    return image_benchmark(
        CARS196,
        n_experiences,
        dataset_root=dataset_root,
        split=split,
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform or cars_crops(image_size),
        eval_transform=eval_transform or cars_center_crop(image_size),
        download=download,
    )
