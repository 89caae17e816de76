"""What was tried beyond the paper and is not an option of the package."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from mist_avalanche.method import MIST, MISTOptions, SecondView


class Colours:
    """The paper's second view with half of the images grey, and other contrast and colours.

    Args:
        by: how much contrast and brightness change.
    """

    def __init__(self, by: float) -> None:
        self.by, self.view = by, SecondView(grayscale=0.5)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Another view of a normalised batch (B, 3, H, W)."""
        x = self.view(x, generator)
        u = torch.rand(3, len(x), 3, 1, 1, device=generator.device, generator=generator) * 2 - 1
        contrast, colour, brightness = u.to(x.device)
        mean = x.mean((2, 3), keepdim=True)
        x = (x - mean) * (1 + self.by * contrast[:, :1]) + mean
        return x * (1 + self.by / 2 * colour) + self.by * brightness[:, :1]


class Scheduled(MIST):
    """MIST with learning rates that differ by step or by block.

    Args:
        options: of MIST.
        cosine: they fall to 0 along half a cosine in every tuning.
        layerwise: gradients are scaled by this from each of twelve blocks to the one before.
    """

    def __init__(
        self, options: MISTOptions, *, cosine: bool = False, layerwise: float = 1.0
    ) -> None:
        super().__init__(options)
        self.cosine, self.layerwise = cosine, layerwise

    def run(self, extract: Any, dataset: Any, *args: Any, epochs: int, **kwargs: Any) -> None:
        """Score, select and tune, with a known number of steps."""
        batches, rest = divmod(len(dataset), self.options.batch_size)
        self.steps = epochs * (batches + (rest > 1))
        super().run(extract, dataset, *args, epochs=epochs, **kwargs)

    @property
    def scales(self) -> dict[str, Tensor]:
        """Factors on the gradients by name."""
        if self.layerwise == 1.0:
            return super().scales
        return {
            name: torch.full(mask.shape, self.layerwise ** (12 - _layer(name)), device=mask.device)
            for name, mask in self.masks.items()
        }

    def _optimizer(self, *args: Any) -> Any:
        optimizer = super()._optimizer(*args)
        if self.cosine:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            optimizer.register_step_post_hook(lambda *_: schedule.step())
        return optimizer


def _layer(name: str) -> int:
    """0 for the patch embedding, 1 to 12 for the blocks, 12 for the last normalisation."""
    block = re.search(r"blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return 12 if name.removeprefix("backbone.").startswith("norm") else 0
