"""The second view of a batch: flip, grayscale and random resized crop, on the batch's device.

Every image gets its own parameters, and every draw comes from one ``torch.Generator``. Neither
torchvision (one crop per call, global random state) nor kornia (global random state) offers both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

View = Callable[[Tensor, torch.Generator], Tensor]  # batch -> another view of the batch
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def flip(x: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images (bool, (B,)) of x (B, C, H, W) left to right."""
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(-1), x)


def grayscale(x: Tensor, chosen: Tensor) -> Tensor:
    """Replace the channels of the chosen images (bool, (B,)) of x (B, 3, H, W) by their luma."""
    luma = torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMA)).unsqueeze(1)
    return torch.where(chosen.view(-1, 1, 1, 1), luma, x)


def resized_crop(x: Tensor, boxes: Tensor) -> Tensor:
    """Cut one box out of each image and resize it, bilinearly, to the image's size.

    Args:
        x: (B, C, H, W).
        boxes: (B, 4) left, top, width, height as fractions of the image.
    """
    left, top, width, height = boxes.to(x.dtype).unbind(1)
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width, 2 * left + width - 1
    theta[:, 1, 1], theta[:, 1, 2] = height, 2 * top + height - 1
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def random_boxes(
    n: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Boxes (n, 4) for :func:`resized_crop`, distributed as torchvision's ``RandomResizedCrop``.

    Each image has ten candidates. The first one that fits is taken; if none fits, the largest
    centred box with a permitted aspect ratio. ``size`` is (height, width) in pixels.
    """
    high, wide = size
    device = generator.device
    area = torch.empty(n, 10, device=device).uniform_(*scale, generator=generator) * high * wide
    log_ratio = torch.empty(n, 10, device=device).uniform_(
        math.log(ratio[0]), math.log(ratio[1]), generator=generator
    )
    width = (area * log_ratio.exp()).sqrt().round()
    height = (area / log_ratio.exp()).sqrt().round()
    fits = (width > 0) & (width <= wide) & (height > 0) & (height <= high)
    first = fits.int().argmax(dim=1, keepdim=True)
    width, height = width.gather(1, first).squeeze(1), height.gather(1, first).squeeze(1)
    u = torch.rand(2, n, device=device, generator=generator)
    left, top = (u[0] * (wide - width + 1)).floor(), (u[1] * (high - height + 1)).floor()

    aspect = min(max(wide / high, ratio[0]), ratio[1])
    w, h = (wide, round(wide / aspect)) if aspect > wide / high else (round(high * aspect), high)
    whole = torch.tensor([(wide - w) // 2, (high - h) // 2, w, h], dtype=area.dtype, device=device)
    boxes = torch.stack([left, top, width, height], dim=1)
    boxes = torch.where(fits.any(dim=1, keepdim=True), boxes, whole)
    return boxes / torch.tensor([wide, high, wide, high], dtype=area.dtype, device=device)


@dataclass(frozen=True)
class SecondView:
    """The paper's second view of a batch (B, C, H, W); single-channel images keep their channel.

    Args:
        flip: probability of a horizontal flip.
        grayscale: probability of conversion to grayscale.
        scale: range of the crop's share of the image area.
        ratio: range of the crop's aspect ratio, width / height.
    """

    flip: float = 0.5
    grayscale: float = 0.25
    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A new tensor of x's shape, dtype and device.

        Raises:
            ValueError: x is not a batch of images.
        """
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(
                f"Expected a float batch of images (B, C, H, W) for the second view, got "
                f"{x.dtype} of shape {tuple(x.shape)}. For other data, give MISTPlugin(view=f), "
                "where f(batch, generator) returns another view of the batch."
            )
        n, device = len(x), x.device
        u = torch.rand(2, n, device=generator.device, generator=generator).to(device)
        boxes = random_boxes(n, (x.shape[-2], x.shape[-1]), self.scale, self.ratio, generator)
        x = flip(x, u[0] < self.flip)
        if x.shape[1] == 3:
            x = grayscale(x, u[1] < self.grayscale)
        return resized_crop(x, boxes.to(device))


def second_view(choice: Mapping[str, Any] | View | None) -> View:
    """The paper's view (None), the same with other arguments (a mapping), or a given function.

    Raises:
        ValueError: :class:`SecondView` has no such argument.
    """
    if callable(choice):
        return choice
    changes = choice or {}
    known = SecondView.__dataclass_fields__
    if not set(changes) <= set(known):
        raise ValueError(f"`view` takes {', '.join(known)}; got {', '.join(changes)}.")
    return SecondView(**changes)
