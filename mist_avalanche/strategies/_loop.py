"""What strategies share that train in Avalanche's loop, and keep features of evaluation."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .._support.randomness import derive_seed, isolated_rng


class LossOfModel:
    """Lets a strategy sum its losses in the model's dtype; Avalanche's sum is of float32."""

    model: Any

    def _make_empty_loss(self) -> Tensor:
        weights: Tensor = next(self.model.parameters())
        return weights.new_zeros(1)


class QuietEvaluation:
    """Lets evaluation draw nothing from the global generators, whether features are kept or not."""

    is_eval: bool

    def _obtain_common_dataloader_parameters(self, **kwargs: Any) -> Any:
        above: Any = super()
        arguments: dict[str, Any] = above._obtain_common_dataloader_parameters(**kwargs)
        if self.is_eval:
            arguments["generator"] = torch.Generator()  # of the workers' seeds
        return arguments


def own_draws(strategy: Any) -> AbstractContextManager[None]:
    """Inside, dropout draws by torch's seed and the number of the iteration, and leaves no trace.

    A loader draws from the global generators too, ahead of the batch where it has workers.
    """
    seed = derive_seed(torch.initial_seed(), strategy.clock.train_iterations)
    return isolated_rng(seed, strategy.device)


def among_own(logits: Tensor, classes: list[int], labels: Tensor) -> Tensor:
    """Logits (B, C) with -inf for other classes than an experience's own.

    A label that a plugin has put into the batch takes part as well.
    """
    others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    others[classes] = False
    others[labels] = False
    return logits.masked_fill(others, -math.inf)
