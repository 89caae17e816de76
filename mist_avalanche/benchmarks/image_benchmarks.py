"""SplitCUB200 and the other image benchmarks: from a dataset on disk to a stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avalanche.benchmarks import NCScenario

from . import layouts, transforms
from .find import Dataset, find
from .stream import class_incremental
from .transforms import Statistics, Transform


@dataclass(frozen=True, kw_only=True)
class ImageBenchmark(Dataset):
    """A dataset that, when called, creates a class-incremental stream."""

    # Published runs: training transform, and mean and std (None for images in [0, 1]).
    train_crops: Callable[[int, Statistics | None], Transform] = transforms.random_crops
    statistics: Statistics | None = None
    normalize: str = "published"  # by default

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
        """Create the class-incremental stream of the dataset.

        Args:
            n_experiences: number of experiences.
            dataset_root: a folder that contains the dataset as a folder or an archive, or one of
                these itself; None for Avalanche's data folder. An archive is unpacked next to
                itself.
            split: ``"official"``; ``"processed"`` for train and test (or val) folders; ``"hash"``
                for 80 % of each class by the hash of the names, if there is no official split.
                None for the first of these that is available.
            image_size: output size of the default transforms, in pixels per side.
            normalize: how the default transforms normalise images in [0, 1]. ``"published"``: as in
                the published runs on the dataset, with a ViT pretrained on ImageNet-21k.
                ``"pretrained"``: with the mean and std of the pretraining of ``backbone``. (mean,
                std) of three channels: with these. None: not at all. ``"default"`` is
                ``"pretrained"`` for SplitFolder, ``"published"`` for the others.
            backbone: for ``"pretrained"``: a timm name or model.
            seed: seed of the class order; 1993 gives the published one.
            fixed_class_order: class ids in their order of appearance. Ids are the ranks of the
                sorted folder names, or the official labels from 0.
            shuffle: False keeps the order of the ids.
            train_transform: transform of a training image (PIL, RGB); None for the published one.
            eval_transform: transform of a test image; None for the published one.
            download: download the official archive if there is no copy.

        Returns:
            An Avalanche benchmark. ``class_names`` is indexed by label,
            ``classes_order_original_ids`` has the class ids in order of appearance, and
            ``split_name`` describes the split, with a digest of the test images.

        Raises:
            FileNotFoundError: there is no copy, or none with that split; the message says what to
                download.
            ValueError: the data are broken, the class order or number of experiences is impossible,
                or the normalisation is unknown.
            OSError: there is no permission, disk space or network.
        """
        if train_transform is None or eval_transform is None:
            setting = self.normalize if normalize == "default" else normalize
            statistics = transforms.statistics_for(setting, self.statistics, backbone)
            train_transform = train_transform or self.train_crops(image_size, statistics)
            eval_transform = eval_transform or transforms.center_crop(image_size, statistics)
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


_OFFICIAL = "as many as in the official split"
_PROCESSED = "as many as in PILOT's processed copy"

SplitCIFAR100 = ImageBenchmark(
    name="cifar100",
    title="CIFAR-100",
    n_classes=100,
    n_images=60_000,
    layouts=(layouts.CIFAR_BATCHES, layouts.TRAIN_TEST_FOLDERS),
    folder_names=("cifar100python", "cifar100"),
    known_splits={(50_000, 10_000): _OFFICIAL},
    how_to_get="cifar-100-python or its .tar.gz, from www.cs.toronto.edu/~kriz/cifar.html",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    size=169_001_437,
    md5="eb9058c3a382ffc7106e4002c42a8d85",
)
SplitCUB200 = ImageBenchmark(
    name="cub200",
    title="CUB-200-2011",
    n_classes=200,
    n_images=11_788,
    layouts=(layouts.CUB_TABLES, layouts.TRAIN_TEST_FOLDERS),
    folder_names=("cub2002011", "cub200", "cub"),
    known_splits={(5_994, 5_794): _OFFICIAL, (9_430, 2_358): _PROCESSED},
    how_to_get=(
        "CUB_200_2011 or its .tgz, from data.caltech.edu/records/65de6-vp158, or PILOT's cub.zip"
    ),
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
    size=1_150_585_339,
    md5="97eceeb196236b17998738112f37df78",
)
SplitImageNetR = ImageBenchmark(
    name="imagenet-r",
    title="ImageNet-R",
    n_classes=200,
    n_images=30_000,
    layouts=(layouts.TRAIN_TEST_FOLDERS, layouts.CLASS_FOLDERS),
    folder_names=("imagenetr",),
    known_splits={(24_000, 6_000): _PROCESSED},
    how_to_get="imagenet-r.tar from people.eecs.berkeley.edu/~hendrycks, or PILOT's imagenet-r.zip",
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    size=2_191_079_936,
    md5="a61312130a589d0ca1a8fca1f2bd3337",
)
SplitImageNetA = ImageBenchmark(
    name="imagenet-a",
    title="ImageNet-A",
    n_classes=200,
    n_images=7_500,
    layouts=(layouts.TRAIN_TEST_FOLDERS, layouts.CLASS_FOLDERS),
    folder_names=("imageneta", "ina"),
    known_splits={(5_981, 1_519): _PROCESSED},
    how_to_get="imagenet-a.tar from people.eecs.berkeley.edu/~hendrycks, or PILOT's ina.zip",
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
    size=687_552_512,
    md5="c3e55429088dc681f30d81f4726b6595",
)
SplitCars196 = ImageBenchmark(
    name="cars196",
    title="Stanford Cars",
    n_classes=196,
    n_images=16_185,
    layouts=(layouts.CARS_DEVKIT, layouts.TRAIN_TEST_FOLDERS),
    folder_names=("stanfordcars", "cars196", "cars"),
    known_splits={(8_144, 8_041): _OFFICIAL},
    how_to_get=(
        "torchvision's folders cars_train, cars_test and devkit, such as the copy "
        "'rickyyyyyyy/torchvision-stanford-cars' on Kaggle, or class folders in train and test; "
        "the official source is gone"
    ),
    train_crops=transforms.cars_crops,
    statistics=transforms.IMAGENET,
)
SplitFolder = ImageBenchmark(
    name="folder",
    title="a folder of images",
    layouts=(
        layouts.CUB_TABLES,
        layouts.CARS_DEVKIT,
        layouts.CIFAR_BATCHES,
        layouts.TINY_IMAGENET,
        layouts.TRAIN_TEST_FOLDERS,
        layouts.CLASS_FOLDERS,
    ),
    how_to_get=(
        "class folders of images, or train and test (or val) folders of class folders, or an "
        "archive of either"
    ),
    normalize="pretrained",
)
IMAGE_BENCHMARKS = (
    SplitCIFAR100,
    SplitCUB200,
    SplitImageNetR,
    SplitImageNetA,
    SplitCars196,
    SplitFolder,
)
