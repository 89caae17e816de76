"""What L2P, DualPrompt and CODA-Prompt share: on a frozen ViT, prompts and a classifier train."""

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

    An image's prompts belong to its query, the ViT's features without prompts. The loss is the
    cross-entropy over the experience's classes plus that of the prompts. Every experience has a new
    Adam without weight decay. Prompts, keys and classifier belong to the ViT that they were trained
    with, so a MISTPlugin tunes it before the first experience only.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D).
        prompts: of the ViT's width, for blocks that it has.
        lr: of Adam.
        clip_grad_norm: largest norm of the gradient; None for no limit.
        common: see :class:`~.gradient_based.GradientStrategy`.
    """

    tune_on = "first"
    follows_tuning = False
    head_std: float | None = 0.02  # of the classifier's start

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
        """Adam of the experience's prompts and the classifier."""
        return torch.optim.Adam(self._trained(), lr=self.lr)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def logits(self, x: Tensor) -> Any:
        """Logits (B, C) of images, in evaluation with the queries that were kept."""
        return self.model(x, None if self.is_training else next(self._queries, None))

    def extra_loss(self) -> Any:
        """The loss of the prompts."""
        return self.model.output.loss

    def optimizer_step(self, **kwargs: Any) -> None:
        """Clip the norm of the gradient, and step."""
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained(), self.clip_grad_norm)
        super().optimizer_step(**kwargs)

    def make_eval_dataloader(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Images in order, and their queries where they are kept."""
        super().make_eval_dataloader(num_workers=num_workers, **kwargs)
        self._queries = iter(())
        if self._cache is not None:
            dataset = self.experience.dataset
            found = self.cached(dataset, "query", self.model.query, num_workers)
            self._queries = iter(torch.split(found.features, self.eval_mb_size))
