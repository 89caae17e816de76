"""The core of the image benchmarks: a dataset found on disk, as a class-incremental stream."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from avalanche.benchmarks import NCScenario

from .storage.catalog import DatasetFacts
from .storage.find import find, split_name
from .stream import Source, Transform, class_incremental
from .transforms import Statistics, center_crop, random_crops, refuse_idle, statistics_for


class ImageBenchmark(Protocol):
    """What ``SplitImageNetR`` and the other image benchmarks are."""

    def __call__(
        self,
        n_experiences: int = 10,
        *,
        dataset_root: str | Path | None = None,
        split: str | None = None,
        image_size: int = 224,
        normalize: str | Statistics | None = "published",
        backbone: Any = None,
        seed: int | None = 1993,
        fixed_class_order: Sequence[int] | None = None,
        shuffle: bool = True,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        download: bool = False,
    ) -> NCScenario:
        """The class-incremental stream of a dataset.

        Args:
            n_experiences: number of experiences.
            dataset_root: a folder that has the dataset as a folder or an archive, or one of these
                itself; None for Avalanche's data folder. An archive is unpacked beside itself.
            split: ``"official"``; ``"processed"`` for train and test (or val) folders; ``"hash"``
                for 80 % of each class by the hash of the names, where there is no official split.
                None for the first of the dataset's that is there.
            image_size: pixels a side that the default transforms give.
            normalize: what the default transforms do to images in [0, 1]. ``"published"``: what
                the published runs on the dataset do, with a ViT pretrained on ImageNet-21k.
                ``"pretrained"``: the mean and std that ``backbone`` was pretrained with.
                (mean, std) of three channels: these. None: nothing.
            backbone: for ``"pretrained"``: a name, or a model of timm.
            seed: of the class order; 1993 gives the published one.
            fixed_class_order: class ids by appearance. Ids are the ranks of the sorted folder
                names, or the official labels from 0.
            shuffle: False keeps the order of the ids.
            train_transform: of a training image (PIL, RGB); None for the published one.
            eval_transform: of a test image; None for the published one.
            download: fetch the official archive when there is no copy.

        Returns:
            An Avalanche benchmark. ``class_names`` are by label, ``classes_order_original_ids`` has
            the class ids by appearance, ``split_name`` says how the images are divided, with a
            digest of which ones are for testing.

        Raises:
            FileNotFoundError: no copy, or none with that split; the message says what to get.
            ValueError: broken data, an impossible order or number of experiences, or a
                normalisation that is not known.
            OSError: no permission, no space or no network.
        """


def image_benchmark(
    name: str,
    doc: str,
    facts: DatasetFacts,
    train: Callable[[int, Statistics | None], Transform] = random_crops,
    published: Statistics | None = None,
    usual: str = "published",
) -> ImageBenchmark:
    """The benchmark of a dataset.

    Args:
        name: of the function.
        doc: what the dataset is, before the arguments.
        facts: where and how it is found.
        train: the published training transform, for an image size and a normalisation.
        published: the mean and std of the published runs; None for images in [0, 1].
        usual: normalisation unless told otherwise.
    """

    def split_images(
        n_experiences: int = 10,
        *,
        dataset_root: str | Path | None = None,
        split: str | None = None,
        image_size: int = 224,
        normalize: str | Statistics | None = usual,
        backbone: Any = None,
        seed: int | None = 1993,
        fixed_class_order: Sequence[int] | None = None,
        shuffle: bool = True,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        download: bool = False,
    ) -> NCScenario:
        refuse_idle({"normalize": usual, "backbone": None, "image_size": 224}, locals())
        replaced = train_transform is not None and eval_transform is not None
        statistics = None if replaced else statistics_for(normalize, published, backbone)
        found = find(facts, dataset_root, split=split, download=download)
        return class_incremental(
            Source(found.train, found.test, found.class_names, split_name(facts, found)),
            n_experiences,
            seed=seed,
            fixed_class_order=fixed_class_order,
            shuffle=shuffle,
            train_transform=train_transform or train(image_size, statistics),
            eval_transform=eval_transform or center_crop(image_size, statistics),
        )

    contract = inspect.getdoc(ImageBenchmark.__call__) or ""
    about = inspect.cleandoc(doc)
    split_images.__doc__ = f"{about}\n\n{contract.partition(chr(10) * 2)[2]}"
    split_images.__name__ = split_images.__qualname__ = name
    split_images.__module__ = "mist_avalanche.benchmarks"  # where pickle finds it
    return split_images
