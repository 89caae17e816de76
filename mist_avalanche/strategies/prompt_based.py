"""What L2P, DualPrompt and CODA-Prompt share: on a frozen ViT, prompts and a classifier train."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ..models.backbone_with_head import BackboneWithHead
from ..models.linear_head import GrowingLinear
from ..models.prompts.base import PromptModule
from ..models.prompts.prompted_vit import PromptedViT
from ..utils import check_choice, check_rate
from .base import Common
from .gradient_based import GradientStrategy, trainable

Schedule = Literal["constant", "cosine"]


class PromptStrategy(GradientStrategy):
    """Trains a prompt module and a growing linear classifier on a frozen ViT.

    An image's prompts belong to its query, the ViT's features without prompts. The loss is the
    cross-entropy over the experience's classes plus that of the prompts. Every experience has a new
    Adam. Prompts, keys and classifier belong to the ViT that they were trained with, so a
    MISTPlugin tunes it before the first experience only.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D).
        prompts: of the ViT's width, for blocks that it has.
        head_std: of the classifier's start; see
            :class:`~mist_avalanche.models.linear_head.GrowingLinear`.
        lr: of Adam.
        schedule: ``"constant"``, or ``"cosine"`` for :func:`coda_cosine`.
        clip_grad_norm: largest norm of the gradient; None for no limit.
        train_mb_size, train_epochs: see :class:`~.base.PretrainedStrategy`.
        common: see :class:`~.base.Common`.

    Raises:
        ValueError: an argument out of its range, or a model that prompts cannot be attached to.
    """

    tune_on = "first"
    follows_tuning = False

    def __init__(
        self,
        *,
        model: nn.Module,
        prompts: PromptModule,
        head_std: float | None = 0.02,
        lr: float,
        schedule: Schedule,
        clip_grad_norm: float | None,
        train_mb_size: int,
        train_epochs: int,
        **common: Unpack[Common],
    ) -> None:
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.schedule_name = check_choice("schedule", schedule, ("constant", "cosine"))
        self.clip_grad_norm = clip_grad_norm
        if clip_grad_norm is not None:
            check_rate("clip_grad_norm", clip_grad_norm, "(0, inf)")
        like = next(model.parameters())
        head = GrowingLinear(prompts.n_features, head_std).to(like)
        super().__init__(
            model=PromptedViT(model, prompts.to(like), head),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )
        self.model_to_tune = BackboneWithHead(model, head)  # without prompts
        self._queries: Iterator[Tensor] = iter(())  # of the test images to come

    @property
    def prompts(self) -> Any:
        """The prompt module."""
        return self.model.prompts

    # ---- Training ----------------------------------------------------------------------------

    def before_experience(self) -> None:
        """Add the prompts of the experience."""
        self.prompts.begin_experience()

    def before_training(self) -> None:
        """Freeze the ViT."""
        self.backbone.requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Prompts of the experience, and the classifier."""
        return trainable(self.model)

    def make_new_optimizer(self, parameters: Iterable[Any]) -> torch.optim.Adam:
        """Adam without weight decay."""
        return torch.optim.Adam(parameters, lr=self.lr)

    def schedule(self, epoch: int) -> float:
        """Share of the learning rate in an epoch, counted from 0."""
        return 1.0 if self.schedule_name == "constant" else coda_cosine(epoch, self.train_epochs)

    def extra_loss(self) -> Tensor:
        """The loss of the prompts."""
        loss: Tensor = self.model.output.loss
        return loss

    def optimizer_step(self, **kwargs: Any) -> None:
        """Clip the norm of the gradient, and step."""
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(trainable(self.model), self.clip_grad_norm)
        super().optimizer_step(**kwargs)

    # ---- Evaluation --------------------------------------------------------------------------

    def make_eval_dataloader(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Images in order, and their queries where they are kept."""
        super().make_eval_dataloader(num_workers=num_workers, **kwargs)
        self._queries = iter(())
        if self._cache is not None:
            dataset = self.experience.dataset
            found = self.cached(dataset, "query", self.model.query, num_workers)
            self._queries = iter(torch.split(found.features, self.eval_mb_size))

    def evaluation_logits(self, x: Tensor) -> Tensor:
        """Logits (B, C) of a mini-batch of evaluation."""
        logits: Tensor = self.model(x, next(self._queries, None))
        return logits


def coda_cosine(epoch: int, epochs: int) -> float:
    """CODA-Prompt's share of the learning rate in epoch e of E, counted from 0.

    cos(99π · max(e - 1, 0) / (200 (E - 1))), which stays at 1 for the first two epochs.
    """
    return math.cos(99 * math.pi * max(epoch - 1, 0) / (200 * max(epochs - 1, 1)))
