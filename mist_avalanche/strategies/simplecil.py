"""SimpleCIL: class means of frozen features (Zhou et al., arXiv 2303.07338)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from ..heads import BackboneWithHead, PrototypeHead


class SimpleCIL(SupervisedTemplate):
    """Class-incremental learning without gradients: one prototype a class, cosine similarity.

    Prototypes are the means of the backbone's features of the training images under the eval
    transform. The backbone stays as it is unless a :class:`~mist_avalanche.MISTPlugin` tunes it
    before an experience. No optimizer, no number of classes, no task labels.

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D).
        criterion: of the reported loss only.
        train_mb_size: images in a batch while prototypes are computed; changes no result.
        eval_mb_size: images in a batch of evaluation.
        device: of backbone and prototypes.
        plugins: Avalanche plugins.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.

    Raises:
        RuntimeError: evaluation before any training.

    Example:
        >>> strategy = SimpleCIL(model=create_backbone(), plugins=[MISTPlugin()])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        criterion: nn.Module | None = None,
        train_mb_size: int = 64,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=BackboneWithHead(model, PrototypeHead()),
            optimizer=None,
            criterion=criterion or nn.CrossEntropyLoss(),
            train_mb_size=train_mb_size,
            train_epochs=1,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **kwargs,
        )

    @property
    def head(self) -> PrototypeHead:
        """The prototypes."""
        head: PrototypeHead = self.model.head
        return head

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Train on the images as they are evaluated."""
        self.adapted_dataset = self.experience.dataset.eval()

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Every image once, in order."""
        super().make_train_dataloader(**{**kwargs, "shuffle": False, "drop_last": False})

    def make_optimizer(self, **kwargs: Any) -> None:
        """There is nothing to optimise."""

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Make room for the experience's classes."""
        self.model = self.model_adaptation()

    @torch.no_grad()
    def training_epoch(self, **kwargs: Any) -> None:
        """One pass over the training images: features, then means."""
        self.model.eval()
        for self.mbatch in self.dataloader:
            if self._stop_training:
                break
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            features: Tensor = self.model.backbone(self.mb_x).flatten(1)
            self._before_update(**kwargs)
            self.head.update(features, self.mb_y)
            self._after_update(**kwargs)
            self.mb_output = self.head(features)
            self._after_forward(**kwargs)
            self.loss = self.criterion()
            self._after_training_iteration(**kwargs)

    def eval(self, exp_list: Any, **kwargs: Any) -> Any:
        """Accuracy and other metrics, as in Avalanche."""
        if not self.is_training and not self.head.seen.any():
            raise RuntimeError(
                "SimpleCIL has seen no class yet. Call train on an experience before eval."
            )
        return super().eval(exp_list, **kwargs)
