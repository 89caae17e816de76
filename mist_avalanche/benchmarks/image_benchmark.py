"""The class of SplitCUB200 and the other image benchmarks: from a dataset on disk to a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avalanche.benchmarks import NCScenario

from .find import Dataset, find
from .stream import class_incremental
from .transforms import Statistics, Transform, center_crop, random_crops, statistics_for


@dataclass(frozen=True, kw_only=True)
class ImageBenchmark(Dataset):
    """A dataset that makes class-incremental streams of itself when it is called."""

    about: str
    train_crops: Callable[[int, Statistics | None], Transform] = random_crops  # as published
    statistics: Statistics | None = None  # of the published runs; None for images in [0, 1]
    normalize: str = "published"  # by default

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", f"{self.about}\n\n{type(self).__call__.__doc__}")

    def __call__(
        self,
        n_experiences: int = 10,
        *,
        dataset_root: str | Path | None = None,
        split: str | None = None,
        image_size: int = 224,
        normalize: str | Statistics | None = "default",
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
            dataset_root: a folder that holds the dataset as a folder or an archive, or one of these
                itself; None for Avalanche's data folder. Archives are unpacked beside themselves.
            split: ``"official"``; ``"processed"`` for train and test (or val) folders; ``"hash"``
                for 80 % of each class by the hash of the names, where there is no official split.
                None for the first of these that is there.
            image_size: side in pixels that the default transforms give.
            normalize: what the default transforms do to images in [0, 1]. ``"published"``: as in
                the published runs on the dataset, with a ViT pretrained on ImageNet-21k.
                ``"pretrained"``: the mean and std that ``backbone`` was pretrained with.
                (mean, std) of three channels: these. None: nothing. ``"default"`` is
                ``"pretrained"`` for SplitFolder, ``"published"`` for the others.
            backbone: for ``"pretrained"``: a name, or a model of timm.
            seed: of the class order; 1993 gives the published one.
            fixed_class_order: class ids in their order of appearance. Ids are the ranks of the
                sorted folder names, or the official labels from 0.
            shuffle: False keeps the order of the ids.
            train_transform: of a training image (PIL, RGB); None for the published one.
            eval_transform: of a test image; None for the published one.
            download: fetch the official archive where there is no copy.

        Returns:
            An Avalanche benchmark. ``class_names`` are by label, ``classes_order_original_ids`` has
            the class ids by appearance, ``split_name`` says how the images are divided, with a
            digest of the test images.

        Raises:
            FileNotFoundError: there is no copy, or none with that split; the message says what to
                get.
            ValueError: broken data, an impossible class order or number of experiences, or an
                unknown normalisation.
            OSError: no permission, space or network.
        """
        if train_transform is None or eval_transform is None:
            setting = self.normalize if normalize == "default" else normalize
            statistics = statistics_for(setting, self.statistics, backbone)
            train_transform = train_transform or self.train_crops(image_size, statistics)
            eval_transform = eval_transform or center_crop(image_size, statistics)
        found = find(self, dataset_root, split, download=download)
        return class_incremental(
            found.train,
            found.test,
            n_experiences,
            class_names=found.class_names,
            split_name=self.split_name(found),
            seed=seed,
            fixed_class_order=fixed_class_order,
            shuffle=shuffle,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
