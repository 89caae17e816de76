"""SplitCIFAR100: CIFAR-100 enlarged for pretrained ViTs (Krizhevsky, 2009)."""

from __future__ import annotations

from .image_benchmark import image_benchmark
from .storage.catalog import CIFAR100

SplitCIFAR100 = image_benchmark(
    "SplitCIFAR100",
    """60000 photographs of 100 classes, 32 pixels a side, enlarged; as published, in [0, 1].

    The official split, 50000 / 10000, is that of the python version.""",
    CIFAR100,
)
