"""What was tried for more than the paper gives, and what is no option of the package."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from mist_avalanche.method import sparse_tuning
from mist_avalanche.method.sgd import SparseSGD
from mist_avalanche.method.views import SecondView


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


def layerwise(method: Any, factor: float) -> None:
    """Learning rates of the blocks fall by ``factor`` from each one to the one before it."""
    plain = method.dropping

    def dropping(*args: Any, **kwargs: Any) -> dict[str, Any]:
        found = plain(*args, **kwargs)
        entries = found["entries"]
        scales = []
        for name, p in zip(entries.names, entries.parameters, strict=True):
            block = re.search(r"blocks\.(\d+)\.", name)
            layer = int(block[1]) + 1 if block else 0
            if name.removeprefix("backbone.").startswith("norm"):
                layer = 12
            scales.append(torch.full_like(p, factor ** (12 - layer)))
        found["decay"] = entries.gather(scales)
        return found

    method.dropping = dropping


def cosine(method: Any) -> None:
    """Learning rates fall to 0 along a half cosine in every tuning."""
    plain = method.tune

    def tune(strategy: Any, extract: Any, epochs: int, *args: Any, **kwargs: Any) -> Any:
        batches, rest = divmod(len(strategy.experience.dataset), method.options.batch_size)
        steps = epochs * (batches + (rest > 1))

        class Falling(SparseSGD):
            done = 0

            def step(self, *given: Any) -> Tensor:
                share = (1 + math.cos(math.pi * self.done / steps)) / 2
                self.lr = share * method.options.lr
                group = self._projection_sgd._sgd.param_groups[0]
                group["lr"] = share * method.options.projection_lr
                self.done += 1
                return super().step(*given)

        sparse_tuning.SparseSGD = Falling
        try:
            return plain(strategy, extract, epochs, *args, **kwargs)
        finally:
            sparse_tuning.SparseSGD = SparseSGD

    method.tune = tune
