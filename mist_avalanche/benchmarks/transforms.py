"""The transforms of the image benchmarks; inputs are PIL images.

Source: the reference implementation of arXiv 2505.19943, after RevisitingCIL (arXiv 2303.07338).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from ..models.backbones import input_statistics
from .stream import Transform

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std of each channel, of [0, 1]
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics_for(
    normalize: str | Statistics | None, published: Statistics | None, backbone: Any
) -> Statistics | None:
    """Mean and std that a setting means; None leaves images in [0, 1].

    Args:
        normalize: ``"published"``, ``"pretrained"``, a mean and a std of three channels, or None.
        published: those of the published runs on the dataset.
        backbone: whose statistics ``"pretrained"`` means: a name, or a model of timm.

    Raises:
        ValueError: another setting; ``"pretrained"`` of a backbone that is not known, or of none; a
            backbone that has no effect.
    """
    if backbone is not None and normalize != "pretrained":
        raise ValueError(
            f"`backbone` has no effect with normalize={normalize!r}. Give normalize='pretrained', "
            "which is for the mean and std of its pretraining, or leave `backbone` away."
        )
    if normalize is None or normalize == "none":
        return None
    if normalize == "published":
        return published
    if normalize == "pretrained":
        if backbone is None:
            raise ValueError(
                "normalize='pretrained' needs the backbone whose inputs it means: give "
                "`backbone`, a name or a model of timm."
            )
        return input_statistics(backbone)
    if isinstance(normalize, str) or [len(part) for part in normalize] != [3, 3]:
        raise ValueError(
            f"Expected `normalize` to be 'published', 'pretrained', None or (mean, std) of three "
            f"channels, got {normalize!r}."
        )
    return normalize


def refuse_idle(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """An error where both transforms are replaced, and something else is set for the default ones.

    Args:
        defaults: by name, of what acts in the default transforms alone.
        given: ``train_transform``, ``eval_transform``, and values for these names.

    Raises:
        ValueError: a value that is not the default one has no effect.
    """
    if given["train_transform"] is None or given["eval_transform"] is None:
        return
    for name, default in defaults.items():
        if given[name] != default:
            raise ValueError(
                f"`{name}` acts in the default transforms, and both are replaced. Leave it away, "
                "and do what it says in `train_transform` and `eval_transform`."
            )


def _tensor(statistics: Statistics | None) -> list[Transform]:
    steps = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return [*steps, *([v2.Normalize(*statistics)] if statistics else [])]


def random_crops(image_size: int = 224, statistics: Statistics | None = None) -> Transform:
    """For training: a crop of 5 to 100 % of the area, mirrored or not."""
    transform: Transform = v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(0.05, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            *_tensor(statistics),
        ]
    )
    return transform


def center_crop(image_size: int = 224, statistics: Statistics | None = None) -> Transform:
    """For evaluation: the shorter side to 8/7 of the size, bicubic; its centre."""
    side = round(image_size * 256 / 224)
    transform: Transform = v2.Compose(
        [
            v2.Resize(side, interpolation=InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(image_size),
            *_tensor(statistics),
        ]
    )
    return transform


def cars_crops(image_size: int = 224, statistics: Statistics | None = None) -> Transform:
    """For training on Cars: 300 × 300 pixels (at 224), a random crop."""
    side = round(image_size * 300 / 224)
    transform: Transform = v2.Compose(
        [
            v2.Resize((side, side), antialias=True),
            v2.RandomCrop(image_size),
            *_tensor(statistics),
        ]
    )
    return transform
