"""Base class of strategies that train on every experience, each time with a new optimizer."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..models.backbone_with_head import BackboneWithHead
from ..utils import check_integer, classes_of
from .base import PretrainedStrategy


class GradientStrategy(PretrainedStrategy):
    """Trains on every experience with the cross-entropy over its own classes.

    Steps of an experience: grow the head (:meth:`before_experience`), let plugins tune the
    backbone, choose what to train (:meth:`before_training`), train with a new optimizer and
    schedule, compute statistics (:meth:`after_experience`). In training, logits of other classes
    are -inf, so that rows of earlier classes do not change.

    Args:
        model: backbone and head.
        common: see :class:`~mist_avalanche.strategies.base.Common`, with ``train_mb_size`` and
            ``train_epochs``.

    Raises:
        ValueError: the experience is part of an online stream; a whole experience is needed.
    """

    masks_steps = False  # the backbone is frozen as a whole or trained as a whole

    optimizer: Any

    def __init__(
        self, *, model: BackboneWithHead, train_mb_size: int, train_epochs: int, **common: Any
    ) -> None:
        check_integer("train_epochs", train_epochs, 1)
        super().__init__(
            model=model, train_mb_size=train_mb_size, train_epochs=train_epochs, **common
        )
        self._tunable = [p for p in model.backbone.parameters() if p.requires_grad]
        self._classes: list[int] = []  # of the current experience
        self._scheduler: Any = None

    # ---- To be defined by a strategy ---------------------------------------------------------

    def before_experience(self) -> None:
        """Grow the head; plugins, which tune a backbone that requires gradients, run next."""

    def before_training(self) -> None:
        """Freeze or attach modules; plugins have already tuned the backbone."""

    @abstractmethod
    def make_new_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the parameters that are trained in this experience."""

    def schedule(self, epoch: int) -> float:
        """Factor on the learning rates in an epoch, counted from 0."""
        return 1.0

    def logits(self, x: Tensor) -> Any:
        """Logits (B, C) of a mini-batch, in training (``self.is_training``) or evaluation."""
        return self.model(x)

    def extra_loss(self) -> Any:
        """Additional loss of the current mini-batch, added to the cross-entropy."""
        return 0.0

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """Compute statistics of the experience's training images under the eval transform."""

    # ---- An experience -----------------------------------------------------------------------

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Grow the head, and make the backbone trainable for plugins."""
        self.refuse_online_parts()
        self._classes = classes_of(self.experience)
        for p in self._tunable:
            p.requires_grad_(True)
        self.model = self.model_adaptation()
        self.before_experience()

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Let plugins tune the backbone; then create the optimizer."""
        super()._before_training_exp(**kwargs)
        self.before_training()
        self.model.to(self.device)
        self.optimizer = self.make_new_optimizer()
        self._scheduler = LambdaLR(self.optimizer, self.schedule)

    def forward(self) -> Tensor:
        """Logits (B, C) of the mini-batch; in training, -inf for classes of other experiences.

        Labels that a plugin has added to the batch, such as replayed ones, are not masked.
        """
        logits = self.logits(self.mb_x)
        if not self.is_training:
            return logits
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[self._classes] = False
        others[self.mb_y] = False
        return logits.masked_fill(others, -math.inf)

    def criterion(self) -> Tensor:
        """Cross-entropy; in training, plus :meth:`extra_loss`."""
        loss = super().criterion()
        return loss + self.extra_loss() if self.is_training else loss

    def _after_training_epoch(self, **kwargs: Any) -> None:
        super()._after_training_epoch(**kwargs)
        self._scheduler.step()

    def _after_training_exp(self, num_workers: int = 0, **kwargs: Any) -> None:
        self.optimizer.zero_grad()
        self.after_experience(self.experience.dataset.eval(), num_workers)
        super()._after_training_exp(num_workers=num_workers, **kwargs)
        self.optimizer = self._scheduler = None


def cosine_schedule(epoch: int, epochs: int) -> float:
    """Factor on a learning rate: a cosine from 1 to 0 over the epochs, counted from 0."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2
