"""Facts about the image datasets: names, sizes, official sources with their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Remote:
    """A file at its official source.

    Args:
        url: where it is.
        filename: what it is called on disk.
        size: in bytes.
        digest: algorithm of hashlib and hexadecimal checksum, ``"sha256:…"`` or ``"md5:…"``.
        layout: what it unpacks to, of :mod:`mist_avalanche.benchmarks.storage.layouts`.
    """

    url: str
    filename: str
    size: int
    digest: str
    layout: str


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset.

    Args:
        name: on the command line and of Avalanche's data folder.
        title: as its authors write it.
        n_classes: classes; None for any number.
        n_images: images, training and test together, the same in every layout; None for any.
        folders: names that a folder or an archive of it may have, lower-case, letters and digits;
            none where the folder itself is given.
        layouts: of :mod:`mist_avalanche.benchmarks.storage.layouts`, the preferred one first.
        remote: official source; None when there is none any more.
        where: how to get the data by hand.
        counts: known layouts by their numbers of training and test images.
    """

    name: str
    title: str
    n_classes: int | None
    n_images: int | None
    folders: tuple[str, ...]
    layouts: tuple[str, ...]
    remote: Remote | None
    where: str
    counts: Mapping[tuple[int, int], str] = field(default_factory=lambda: MappingProxyType({}))


_OFFICIAL = "as many as in the official split"
_PROCESSED = "as many as in PILOT's processed copy"

CIFAR100 = DatasetFacts(
    name="cifar100",
    title="CIFAR-100",
    n_classes=100,
    n_images=60_000,
    folders=("cifar100python", "cifar100"),
    layouts=("python", "folders"),
    remote=Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz",
        169_001_437,
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        "python",
    ),
    where="the folder cifar-100-python or its .tar.gz, from www.cs.toronto.edu/~kriz/cifar.html",
    counts=MappingProxyType({(50_000, 10_000): _OFFICIAL}),
)
CUB200 = DatasetFacts(
    name="cub200",
    title="CUB-200-2011",
    n_classes=200,
    n_images=11_788,
    folders=("cub2002011", "cub200", "cub"),
    layouts=("official", "folders"),
    remote=Remote(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
        "CUB_200_2011.tgz",
        1_150_585_339,
        "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        "official",
    ),
    where="CUB_200_2011 or its .tgz from data.caltech.edu/records/65de6-vp158, or PILOT's cub.zip",
    counts=MappingProxyType({(5_994, 5_794): _OFFICIAL, (9_430, 2_358): _PROCESSED}),
)
IMAGENET_R = DatasetFacts(
    name="imagenet-r",
    title="ImageNet-R",
    n_classes=200,
    n_images=30_000,
    folders=("imagenetr",),
    layouts=("folders", "classes"),
    remote=Remote(
        "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
        "imagenet-r.tar",
        2_191_079_936,
        "sha256:18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
        "classes",
    ),
    where="imagenet-r.tar from people.eecs.berkeley.edu/~hendrycks, or PILOT's imagenet-r.zip",
    counts=MappingProxyType({(24_000, 6_000): _PROCESSED}),
)
IMAGENET_A = DatasetFacts(
    name="imagenet-a",
    title="ImageNet-A",
    n_classes=200,
    n_images=7_500,
    folders=("imageneta", "ina"),
    layouts=("folders", "classes"),
    remote=Remote(
        "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
        "imagenet-a.tar",
        687_552_512,
        "sha256:3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
        "classes",
    ),
    where="imagenet-a.tar from people.eecs.berkeley.edu/~hendrycks, or PILOT's ina.zip",
    counts=MappingProxyType({(5_981, 1_519): _PROCESSED}),
)
CARS196 = DatasetFacts(
    name="cars196",
    title="Stanford Cars",
    n_classes=196,
    n_images=16_185,
    folders=("stanfordcars", "cars196", "cars"),
    layouts=("devkit", "folders"),
    remote=None,
    where=(
        "torchvision's folders cars_train, cars_test and devkit, such as the copy "
        "'rickyyyyyyy/torchvision-stanford-cars' on Kaggle, or class folders in train and test; "
        "the official source is gone"
    ),
    counts=MappingProxyType({(8_144, 8_041): _OFFICIAL}),
)

# Any folder of images: the user says which, so that no name is looked for.
FOLDER = DatasetFacts(
    name="folder",
    title="a folder of images",
    n_classes=None,
    n_images=None,
    folders=(),
    layouts=("official", "devkit", "python", "folders", "classes"),
    remote=None,
    where=(
        "class folders of images, or train and test (or val) folders of class folders, or an "
        "archive of either"
    ),
)

DATASETS: Mapping[str, DatasetFacts] = MappingProxyType(
    {facts.name: facts for facts in (CIFAR100, CUB200, IMAGENET_R, IMAGENET_A, CARS196)}
)
