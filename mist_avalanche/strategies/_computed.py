"""Strategies without gradients: features of a frozen backbone, and a head that is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from ..drift import fit_drift, turned
from ..features import in_mode
from ..heads import BackboneWithHead, StatisticsHead


class ComputedHeadStrategy(SupervisedTemplate, ABC):
    """Fits a head to the features of each experience's training images under the eval transform.

    The backbone stays as it is unless a plugin tunes it before an experience. Metrics and plugins
    see the training images once the head is fitted; ``mb_x`` are then their features (B, D).

    Args:
        head: the classifier.
        model, criterion, drift_compensation, kwargs: as for
            :class:`~mist_avalanche.strategies.SimpleCIL`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        head: StatisticsHead,
        criterion: nn.Module | None,
        drift_compensation: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=BackboneWithHead(model, head),
            optimizer=None,
            criterion=criterion or nn.CrossEntropyLoss(),
            train_epochs=1,
            **kwargs,
        )
        self.drift_compensation = drift_compensation
        self._before_tuning: Tensor | None = None
        self._loader: Any = None

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add an experience, features (n, D) of labels (n,), to the head."""

    # ---- An experience -----------------------------------------------------------------------

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Train on the images as they are evaluated."""
        self.adapted_dataset = self.experience.dataset.eval()

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Every image once, in order."""
        super().make_train_dataloader(**{**kwargs, "shuffle": False, "drop_last": False})

    def make_optimizer(self, **kwargs: Any) -> None:
        """There is nothing to optimise."""

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Make room for the experience's classes; plugins come right after."""
        self.model = self.model_adaptation()
        self._loader = self.dataloader  # a plugin may put another in its place
        self._before_tuning = None
        if self.drift_compensation and self.head.seen.any():
            self._before_tuning, _ = self._extract(turned)

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Plugins may tune the backbone here; what is stored follows its features."""
        super()._before_training_exp(**kwargs)
        before = self._before_tuning
        if before is None:
            return
        after, _ = self._extract(turned)
        if not torch.equal(before, after):
            generator = torch.Generator().manual_seed(self.clock.train_exp_counter)
            self.head.move(fit_drift(before, after, generator))
        self._before_tuning = None

    @torch.no_grad()
    def training_epoch(self, **kwargs: Any) -> None:
        """Fit the head to the experience; then go through it once more for plugins and metrics."""
        features, labels = self._extract(lambda x: [x])
        features = features.squeeze(1)  # (n, D)
        self.fit(features, labels)
        batches = (torch.split(part, self.train_mb_size) for part in (features, labels))
        for f, y in zip(*batches, strict=True):
            if self._stop_training:
                break
            self.mbatch = [f, y, torch.zeros_like(y)]
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            self.mb_output = self.head(f)
            self._after_forward(**kwargs)
            self.loss = self.criterion()
            self._after_training_iteration(**kwargs)

    @torch.no_grad()
    def _extract(self, views: Callable[[Tensor], list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Features (n, V, D) of V views and labels (n,) of the experience, in order.

        The model is in evaluation mode.
        """
        features, labels = [], []
        with in_mode(self.model, training=False):
            for self.mbatch in self._loader:
                self._unpack_minibatch()
                seen = [self.model.backbone(x).flatten(1) for x in views(self.mb_x)]
                features.append(torch.stack(seen, dim=1))
                labels.append(self.mb_y)
        return torch.cat(features), torch.cat(labels)

    def eval(self, exp_list: Any, **kwargs: Any) -> Any:
        """Accuracy and other metrics, as in Avalanche."""
        if not self.is_training and not self.head.seen.any():
            raise RuntimeError(
                f"{type(self).__name__} has seen no class yet. Call train on an experience before "
                "eval."
            )
        return super().eval(exp_list, **kwargs)

    @property
    def head(self) -> Any:
        """The classifier."""
        return self.model.head
