"""SplitCars196: Stanford Cars (Krause et al., 3DRR 2013)."""

from __future__ import annotations

from .image_benchmark import image_benchmark
from .storage.catalog import CARS196
from .transforms import IMAGENET, cars_crops

SplitCars196 = image_benchmark(
    "SplitCars196",
    """16185 photographs of 196 models of cars; as published, with ImageNet's mean and std.

    The official split, 8144 / 8041, is that of torchvision's layout. The official source is gone:
    ``download=True`` says where copies are.""",
    CARS196,
    cars_crops,
    IMAGENET,
)
