"""The MI objective on an experience: two views, backbone, projection, loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._batches import Batches, derive_seed, isolated_rng
from .features import FeatureExtractor, in_mode
from .losses import SupervisedInfoNCE

PROJECTION_WIDTH = 128
_PROJECTION = 3  # purpose of random numbers; the plugin has 0 to 2


@dataclass(frozen=True)
class ExperiencePass:
    """What scoring and tuning work with: batches, and the scalar loss of one."""

    batches: Batches
    loss_of: Callable[[tuple[Tensor, Tensor]], Tensor]
    projection: nn.Linear


class MIObjective:
    """The supervised InfoNCE of a batch and its second view, through one projection for good.

    Args:
        temperature: τ.
        batch_size: images a batch, each in two views.
        view: the second view, ``f(batch, generator)``.
        seed: of the projection's first weights.
    """

    def __init__(
        self,
        temperature: float,
        batch_size: int,
        view: Callable[[Tensor, torch.Generator], Tensor],
        seed: int,
    ) -> None:
        self.loss = SupervisedInfoNCE(temperature)
        self.batch_size, self.view, self.seed = batch_size, view, seed
        self.projection: nn.Linear | None = None

    @contextmanager
    def on(
        self,
        strategy: Any,
        extract: FeatureExtractor,
        seed: int,
        num_workers: int = 0,
        *,
        training: bool,
    ) -> Iterator[ExperiencePass]:
        """Bound to a strategy's experience, with the host's mode and random streams left alone.

        Args:
            strategy: in training on the experience.
            extract: gives the features.
            seed: of order, transforms and views.
            num_workers: of the data loader; it changes no number.
            training: mode of the model inside.
        """
        device: torch.device = strategy.device
        views = torch.Generator().manual_seed(seed)
        dataset = strategy.experience.dataset.train()
        batches = Batches(dataset, self.batch_size, seed, device, num_workers)

        with in_mode(strategy.model, training=training), isolated_rng(seed, device):
            projection = self._projection_for(extract, batches)

            def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
                x, y = batch
                features = extract(torch.cat([x, self.view(x, views)]))  # (2B, D)
                loss: Tensor = self.loss(projection(features.to(projection.weight.dtype)), y)
                return loss

            with torch.enable_grad():
                yield ExperiencePass(batches, loss_of, projection)

    def _projection_for(self, extract: FeatureExtractor, batches: Batches) -> nn.Linear:
        """The projection, made when the width of the features is known."""
        if self.projection is None:
            x = batches.loader.dataset[(0, 0)][0].unsqueeze(0).to(batches.device)
            with in_mode(extract.model, training=False), torch.no_grad():
                features = extract(x)
            with isolated_rng(derive_seed(self.seed, _PROJECTION), torch.device("cpu")):
                projection = nn.Linear(features.shape[1], PROJECTION_WIDTH)
            dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
            self.projection = projection.to(features.device, dtype)
        return self.projection
