"""The published transforms of the image benchmarks; inputs are PIL images, outputs in [0, 1].

Source: the reference implementation of arXiv 2505.19943, after RevisitingCIL (arXiv 2303.07338).
"""

from __future__ import annotations

import torch
from torchvision.transforms import InterpolationMode, v2

from ._stream import Transform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _tensor() -> list[Transform]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


def random_crops(image_size: int = 224) -> Transform:
    """For training: a crop of 5 to 100 % of the area, mirrored or not; no normalisation."""
    transform: Transform = v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(0.05, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            *_tensor(),
        ]
    )
    return transform


def center_crop(image_size: int = 224) -> Transform:
    """For evaluation: the shorter side to 8/7 of the size, bicubic; its centre."""
    transform: Transform = v2.Compose(_centered(image_size))
    return transform


def cars_crops(image_size: int = 224) -> Transform:
    """For training on Cars: 300 × 300 pixels (at 224), a random crop, ImageNet's mean and std."""
    side = round(image_size * 300 / 224)
    transform: Transform = v2.Compose(
        [
            v2.Resize((side, side), antialias=True),
            v2.RandomCrop(image_size),
            *_tensor(),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return transform


def cars_center_crop(image_size: int = 224) -> Transform:
    """For evaluation on Cars: as elsewhere, with ImageNet's mean and std."""
    transform: Transform = v2.Compose(
        [*_centered(image_size), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    return transform


def _centered(image_size: int) -> list[Transform]:
    side = round(image_size * 256 / 224)
    return [
        v2.Resize(side, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(image_size),
        *_tensor(),
    ]
