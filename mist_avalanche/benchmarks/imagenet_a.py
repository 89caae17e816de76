"""SplitImageNetA: natural adversarial examples (Hendrycks et al., arXiv 1907.07174)."""

from __future__ import annotations

from .image_benchmark import image_benchmark
from .storage.catalog import IMAGENET_A

SplitImageNetA = image_benchmark(
    "SplitImageNetA",
    """7500 photographs of 200 classes that ResNet-50 gets wrong; as published, in [0, 1].

    PILOT's copy has train and test folders, 5981 / 1519; the official archive has no split and is
    split by hash.""",
    IMAGENET_A,
)
