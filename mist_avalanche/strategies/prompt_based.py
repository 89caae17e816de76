"""Base class of L2P, DualPrompt and CODA-Prompt: prompts and a classifier on a frozen ViT."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..models.linear_head import GrowingLinear
from ..models.prompts.base import PromptModule
from ..models.prompts.prompted_vit import PromptedViT
from ..utils import check_rate
from .gradient_based import GradientStrategy


class PromptStrategy(GradientStrategy):
    """Trains a prompt module and a growing linear classifier on a frozen ViT.

    The prompts of an image depend on its query, its features from the ViT without prompts. The loss
    is the cross-entropy over the experience's classes plus the loss of the prompts. Every
    experience starts with a new Adam without weight decay. Prompts, keys and classifier depend on
    the ViT they were trained with, so a MISTPlugin tunes it before the first experience only.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D).
        prompts: prompt module that matches the ViT's width and blocks.
        lr: learning rate of Adam.
        clip_grad_norm: maximum norm of the gradient; None for no limit.
        common: see :class:`~.gradient_based.GradientStrategy`.
    """

    tune_on = "first"
    follows_tuning = False
    head_std: float | None = 0.02  # of the classifier's initial weights

    def __init__(
        self,
        *,
        model: nn.Module,
        prompts: PromptModule,
        lr: float,
        clip_grad_norm: float | None,
        **common: Any,
    ) -> None:
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.clip_grad_norm = clip_grad_norm
        if clip_grad_norm is not None:
            check_rate("clip_grad_norm", clip_grad_norm, "(0, inf)")
        like = next(model.parameters())
        head = GrowingLinear(prompts.n_features, self.head_std).to(like)
        super().__init__(model=PromptedViT(model, prompts.to(like), head), **common)
        self._queries: Iterator[Tensor] = iter(())  # of the test images to come

    @property
    def prompts(self) -> Any:
        """The prompt module."""
        return self.model.prompts

    def before_experience(self) -> None:
        """Add the prompts of the experience."""
        self.prompts.begin_experience()

    def before_training(self) -> None:
        """Freeze the ViT."""
        self.backbone.requires_grad_(False)

    def make_new_optimizer(self) -> torch.optim.Adam:
        """Adam for the experience's prompts and the classifier."""
        return torch.optim.Adam(self._trained(), lr=self.lr)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def logits(self, x: Tensor) -> Any:
        """Logits (B, C) of images; in evaluation, with the cached queries."""
        return self.model(x, None if self.is_training else next(self._queries, None))

    def extra_loss(self) -> Any:
        """The loss of the prompts."""
        return self.model.output.loss

    def optimizer_step(self, **kwargs: Any) -> None:
        """Clip the norm of the gradient, then take a step."""
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained(), self.clip_grad_norm)
        super().optimizer_step(**kwargs)

    def make_eval_dataloader(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Batches of images in order, and their queries if they are cached."""
        super().make_eval_dataloader(num_workers=num_workers, **kwargs)
        self._queries = iter(())
        if self._cache is not None:
            dataset = self.experience.dataset
            found = self.cached(dataset, "query", self.model.query, num_workers)
            self._queries = iter(torch.split(found.features, self.eval_mb_size))
