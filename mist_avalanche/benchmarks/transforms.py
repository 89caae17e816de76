"""The transforms of the image benchmarks; inputs are PIL images.

Source: the reference implementation of arXiv 2505.19943, after RevisitingCIL (arXiv 2303.07338).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from ..models.backbones import input_statistics
from .images import read_image

Transform = Callable[[Any], Any]
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std per channel, for [0, 1]
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics_for(
    normalize: str | Statistics | None, published: Statistics | None, backbone: Any
) -> Statistics | None:
    """Mean and std for a benchmark's ``normalize`` and ``backbone``, given the published ones.

    None leaves images in [0, 1].

    Raises:
        ValueError: the setting is unknown, or the backbone is missing, unknown or without effect.
    """
    if backbone is not None and normalize != "pretrained":
        raise ValueError(
            f"`backbone` has no effect with normalize={normalize!r}. Give normalize='pretrained' "
            "for the mean and std of its pretraining, or omit `backbone`."
        )
    if normalize is None or normalize == "none":
        return None
    if normalize == "published":
        return published
    if normalize == "pretrained":
        if backbone is None:
            raise ValueError(
                "normalize='pretrained' needs the backbone: give `backbone`, a name or model of "
                "timm."
            )
        return input_statistics(backbone)
    if isinstance(normalize, str) or [len(part) for part in normalize] != [3, 3]:
        raise ValueError(
            f"Expected `normalize` to be 'published', 'pretrained', None or (mean, std) of three "
            f"channels, got {normalize!r}."
        )
    return normalize


def random_crops(image_size: int = 224, statistics: Statistics | None = None) -> v2.Compose:
    """Training transform: a random crop of 5 to 100 % of the area, randomly flipped."""
    crop = v2.RandomResizedCrop(image_size, scale=(0.05, 1.0), antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor(), *_scaled(statistics)])


def center_crop(image_size: int = 224, statistics: Statistics | None = None) -> v2.Compose:
    """Evaluation transform: resize the shorter side to 8/7 of the size, bicubic; centre crop."""
    side = round(image_size * 256 / 224)
    resize = v2.Resize(side, interpolation=InterpolationMode.BICUBIC, antialias=True)
    crop = v2.CenterCrop(image_size)
    return v2.Compose([resize, crop, v2.PILToTensor(), *_scaled(statistics)])


def cars_crops(image_size: int = 224, statistics: Statistics | None = None) -> v2.Compose:
    """Training transform of Cars: resize to 300 × 300 pixels (at 224), bicubic; crop; flip."""
    side = round(image_size * 300 / 224)
    resize = v2.Resize((side, side), InterpolationMode.BICUBIC, antialias=True)
    crop, flip = v2.RandomCrop(image_size), v2.RandomHorizontalFlip()
    return v2.Compose([resize, crop, flip, v2.PILToTensor(), *_scaled(statistics)])


def whole_image(image_size: int, statistics: Statistics | None = None) -> v2.Compose:
    """Evaluation transform of drawings: resize the whole image."""
    resize = v2.Resize((image_size, image_size), antialias=True)
    return v2.Compose([v2.PILToTensor(), resize, *_scaled(statistics)])


def slightly_bent(image_size: int, statistics: Statistics | None = None) -> v2.Compose:
    """Training transform of drawings: a slight random affine map of the whole image; resize."""
    resize = v2.Resize((image_size, image_size), antialias=True)
    return v2.Compose([v2.PILToTensor(), slight_affine(), resize, *_scaled(statistics)])


def slight_affine() -> v2.RandomAffine:
    """Random rotation, shift, scale and shear, as between two drawings of one character."""
    return v2.RandomAffine(
        10, (0.08, 0.08), (0.9, 1.1), 10, interpolation=InterpolationMode.BILINEAR
    )


def white_on_black(image: Image.Image) -> Image.Image:
    """Convert a black-on-white drawing to white ink on black, RGB."""
    return ImageOps.invert(image.convert("L")).convert("RGB")


def prepare(
    benchmark_name: str, image_size: int, statistics: Statistics | None = None
) -> Callable[[str | Path], Tensor]:
    """A function from an image file to the tensor that a benchmark would use in evaluation.

    Args:
        benchmark_name: name in the command; unknown ones are treated as image benchmarks.
        image_size: side of the tensor in pixels.
        statistics: mean and std; None for [0, 1].
    """
    if benchmark_name == "omniglot":
        whole = whole_image(image_size, statistics)
        return lambda file: whole(white_on_black(read_image(file)))
    if benchmark_name == "glyphs":
        whole = whole_image(image_size)
        return lambda file: whole(read_image(file))
    crop = center_crop(image_size, statistics)
    return lambda file: crop(read_image(file))


def _scaled(statistics: Statistics | None) -> list[Transform]:
    """Transforms of a uint8 tensor: scale to [0, 1], then normalise."""
    to_unit = v2.ToDtype(torch.float32, scale=True)
    return [to_unit, *([v2.Normalize(*statistics)] if statistics else [])]
