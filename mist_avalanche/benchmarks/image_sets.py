"""The image benchmarks, one row each: what copies are called and how they lie on disk."""

from __future__ import annotations

from .download import OfficialArchive
from .image_benchmark import ImageBenchmark
from .layouts import (
    CARS_DEVKIT,
    CIFAR_BATCHES,
    CLASS_FOLDERS,
    CUB_TABLES,
    TRAIN_TEST_FOLDERS,
)
from .transforms import IMAGENET, cars_crops

_OFFICIAL = "as many as in the official split"
_PROCESSED = "as many as in PILOT's processed copy"

SplitCIFAR100 = ImageBenchmark(
    name="cifar100",
    title="CIFAR-100",
    about="60000 photographs of 100 classes (Krizhevsky, 2009), enlarged from 32 pixels.",
    n_classes=100,
    n_images=60_000,
    layouts=(CIFAR_BATCHES, TRAIN_TEST_FOLDERS),
    folder_names=("cifar100python", "cifar100"),
    known_splits={(50_000, 10_000): _OFFICIAL},
    how_to_get="cifar-100-python or its .tar.gz, from www.cs.toronto.edu/~kriz/cifar.html",
    archive=OfficialArchive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz",
        size=169_001_437,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        split="official",
    ),
)
SplitCUB200 = ImageBenchmark(
    name="cub200",
    title="CUB-200-2011",
    about="11788 photographs of 200 species of birds (Wah et al., 2011).",
    n_classes=200,
    n_images=11_788,
    layouts=(CUB_TABLES, TRAIN_TEST_FOLDERS),
    folder_names=("cub2002011", "cub200", "cub"),
    known_splits={(5_994, 5_794): _OFFICIAL, (9_430, 2_358): _PROCESSED},
    how_to_get=(
        "CUB_200_2011 or its .tgz, from data.caltech.edu/records/65de6-vp158, or PILOT's cub.zip"
    ),
    archive=OfficialArchive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
        "CUB_200_2011.tgz",
        size=1_150_585_339,
        md5="97eceeb196236b17998738112f37df78",
        split="official",
    ),
)
SplitImageNetR = ImageBenchmark(
    name="imagenet-r",
    title="ImageNet-R",
    about="30000 renditions of 200 ImageNet classes (Hendrycks et al., arXiv 2006.16241).",
    n_classes=200,
    n_images=30_000,
    layouts=(TRAIN_TEST_FOLDERS, CLASS_FOLDERS),
    folder_names=("imagenetr",),
    known_splits={(24_000, 6_000): _PROCESSED},
    how_to_get="imagenet-r.tar from people.eecs.berkeley.edu/~hendrycks, or PILOT's imagenet-r.zip",
    archive=OfficialArchive(
        "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
        "imagenet-r.tar",
        size=2_191_079_936,
        md5="a61312130a589d0ca1a8fca1f2bd3337",
        split="hash",
    ),
)
SplitImageNetA = ImageBenchmark(
    name="imagenet-a",
    title="ImageNet-A",
    about="7500 photographs of 200 classes that a ResNet-50 gets wrong (arXiv 1907.07174).",
    n_classes=200,
    n_images=7_500,
    layouts=(TRAIN_TEST_FOLDERS, CLASS_FOLDERS),
    folder_names=("imageneta", "ina"),
    known_splits={(5_981, 1_519): _PROCESSED},
    how_to_get="imagenet-a.tar from people.eecs.berkeley.edu/~hendrycks, or PILOT's ina.zip",
    archive=OfficialArchive(
        "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
        "imagenet-a.tar",
        size=687_552_512,
        md5="c3e55429088dc681f30d81f4726b6595",
        split="hash",
    ),
)
SplitCars196 = ImageBenchmark(
    name="cars196",
    title="Stanford Cars",
    about="16185 photographs of 196 models of cars (Krause et al., 3DRR 2013).",
    n_classes=196,
    n_images=16_185,
    layouts=(CARS_DEVKIT, TRAIN_TEST_FOLDERS),
    folder_names=("stanfordcars", "cars196", "cars"),
    known_splits={(8_144, 8_041): _OFFICIAL},
    how_to_get=(
        "torchvision's folders cars_train, cars_test and devkit, such as the copy "
        "'rickyyyyyyy/torchvision-stanford-cars' on Kaggle, or class folders in train and test; "
        "the official source is gone"
    ),
    train_crops=cars_crops,
    statistics=IMAGENET,
)
SplitFolder = ImageBenchmark(
    name="folder",
    title="a folder of images",
    about="Your own images, or a part of a known dataset: every folder of images is a class.",
    layouts=(CUB_TABLES, CARS_DEVKIT, CIFAR_BATCHES, TRAIN_TEST_FOLDERS, CLASS_FOLDERS),
    how_to_get=(
        "class folders of images, or train and test (or val) folders of class folders, or an "
        "archive of either"
    ),
    normalize="pretrained",
)
