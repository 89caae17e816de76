"""SplitImageNetR: renditions of ImageNet classes (Hendrycks et al., arXiv 2006.16241)."""

from __future__ import annotations

from .image_benchmark import image_benchmark
from .storage.catalog import IMAGENET_R

SplitImageNetR = image_benchmark(
    "SplitImageNetR",
    """30000 paintings, cartoons, toys and other renditions of 200 classes; as published, in [0, 1].

    PILOT's copy has train and test folders, 24000 / 6000; the official archive has no split and is
    split by hash.""",
    IMAGENET_R,
)
