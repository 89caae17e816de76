"""SplitFolder: any folder of images."""

from __future__ import annotations

from .image_benchmark import image_benchmark
from .storage.catalog import FOLDER

SplitFolder = image_benchmark(
    "SplitFolder",
    """Your own images, or a part of a known dataset: every folder of images is a class.

    ``dataset_root`` is a folder of class folders, of which 80 % of each class, by the hash of the
    names, is for training; or one with train and test (or val) folders of class folders; or an
    archive of either (.zip, .tar, .tgz), which is unpacked beside itself. Other files are skipped.

    ``normalize`` is ``"pretrained"`` unless you say otherwise, so ``backbone`` is needed, a name or
    a model of timm.""",
    FOLDER,
    usual="pretrained",
)
