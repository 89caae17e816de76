"""Strategies that train in Avalanche's loop with an optimizer of their own in each experience."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from .._support.checks import check_integer, check_not_empty, classes_of
from .._support.distributed import check_alone
from .._support.memory_use import advice
from ..models.features import in_mode
from ..models.heads import BackboneWithHead
from ._arrivals import Arrivals, OwnOptimizer, whole_of
from ._batches import collect, own_share
from ._loop import LossOfModel, among_own, own_draws
from ._seeded_loader import seeded
from .feature_cache import Features

MOMENTUM = 0.9


class OwnTraining(OwnOptimizer, LossOfModel, SupervisedTemplate, ABC):
    """An experience: grow, let plugins tune the backbone, train with a new SGD, take statistics.

    In training the softmax is over the classes of the present experience alone, and over those of
    labels that a plugin has put into the batch. The parts of an online experience whose boundaries
    may be known are one experience; its images, those that no part had too, are looked at once more
    when it is over.

    Args:
        model: backbone and classifier.
        criterion: None for cross-entropy.
        kwargs: Avalanche's own.
    """

    modules_in_state: tuple[str, ...] = ("head",)
    masks_steps = False

    def __init__(
        self,
        *,
        model: BackboneWithHead,
        criterion: nn.Module | None,
        **kwargs: Any,
    ) -> None:
        if "optimizer" in kwargs:
            raise TypeError(
                f"{type(self).__name__} has no argument 'optimizer': every experience has a new "
                "SGD. Give `lr`."
            )
        check_integer("train_epochs", kwargs["train_epochs"], 1)
        super().__init__(
            model=model,
            optimizer=None,
            criterion=criterion or nn.CrossEntropyLoss(),
            **kwargs,
        )
        self._tunable = [p for p in model.backbone.parameters() if p.requires_grad]
        self._classes = []
        self._arrivals = Arrivals()

    @abstractmethod
    def begin_experience(self, classes: list[int]) -> None:
        """Grow; plugins come right after, and the backbone can train."""

    def begin_training(self, classes: list[int]) -> None:
        """Make what trains, if it is not there; plugins have tuned."""

    @abstractmethod
    def trained(self) -> list[dict[str, Any]]:
        """What trains: parameter groups of SGD with their ``lr``."""

    @abstractmethod
    def rate(self, epoch: int) -> float:
        """The share of the learning rates in an epoch, counted from 0."""

    @abstractmethod
    def end_experience(self, dataset: Any, num_workers: int) -> None:
        """Training is over; images under the eval transform for what is computed from them."""

    @property
    def backbone(self) -> Any:
        """The backbone."""
        return self.model.backbone

    @property
    def head(self) -> Any:
        """The classifier."""
        return self.model.head

    # ---- An experience -----------------------------------------------------------------------

    dataloader: Any
    weight_decay: float

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Grow; plugins, which come right after, see a backbone that can train."""
        check_alone(type(self).__name__)
        check_not_empty(self.experience)
        arrivals = self._arrivals
        if arrivals.begins(self.experience):
            if arrivals.arrived is not None:  # the last images of the one before never came
                self._end(0)
            self._classes = classes_of(whole_of(self.experience))
            arrivals.begin(self.experience)
            self.optimizer = None
            for p in self._tunable:
                p.requires_grad_(True)
            self.begin_experience(self._classes)

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Plugins may tune the backbone here; then what trains gets its optimizer."""
        super()._before_training_exp(**kwargs)
        self.dataloader = seeded(self.dataloader, self)
        if self.optimizer is None:
            self.begin_training(self._classes)
            self.optimizer = self.new_optimizer()

    def new_optimizer(self) -> torch.optim.SGD:
        """SGD of what trains."""
        groups = self.trained()
        self._rates = [group["lr"] for group in groups]
        return torch.optim.SGD(
            groups, lr=groups[-1]["lr"], momentum=MOMENTUM, weight_decay=self.weight_decay
        )

    def make_optimizer(self, **kwargs: Any) -> None:
        """Every experience has a new one, once plugins have run."""

    def _before_training_epoch(self, **kwargs: Any) -> None:
        rate = self.rate(self.clock.train_exp_epochs)
        for group, lr in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = lr * rate
        super()._before_training_epoch(**kwargs)

    @abstractmethod
    def training_logits(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images in training."""

    @abstractmethod
    def evaluation_logits(self, x: Tensor) -> Tensor:
        """Logits (B, C) of a mini-batch of evaluation."""

    def forward(self) -> Tensor:
        """Logits (B, C) of the mini-batch; in training -inf for other experiences' classes."""
        if not self.is_training:
            return self.evaluation_logits(self.mb_x)
        with own_draws(self):
            logits = self.training_logits(self.mb_x)
        return among_own(logits, self._classes, self.mb_y)

    def _after_training_exp(self, num_workers: int = 0, **kwargs: Any) -> None:
        """What an experience leaves behind, once it is over."""
        over = self._arrivals.add(self.experience)
        if over:
            self.optimizer.zero_grad()
            self._end(num_workers)
        super()._after_training_exp(num_workers=num_workers, **kwargs)
        if over:
            self.optimizer = None

    def _end(self, num_workers: int) -> None:
        """The experience that goes on is over."""
        whole = self._arrivals.whole
        if whole is None:
            raise RuntimeError(
                "The run was resumed within an online experience, and the next part is of another "
                "one: the images of the first are not known any more. Start anew."
            )
        self.end_experience(whole.dataset.eval(), num_workers)
        self._arrivals.end()

    @torch.no_grad()
    def features_of(
        self, datasets: list[Any], num_workers: int, run: Callable[[Tensor], Tensor]
    ) -> Features:
        """Features, labels and task labels of datasets in order, in evaluation mode."""
        loader = own_share(datasets, self.eval_mb_size, self.device, num_workers)
        smaller = "Lower eval_mb_size; it changes no result."
        with in_mode(self.model, training=False), advice("a batch of images", smaller):
            return collect(loader, self.device, run)
