"""SimpleCIL: class means of frozen features (Zhou et al., arXiv 2303.07338)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn

from ..models.heads import PrototypeHead
from ._computed import ComputedHeadStrategy


class SimpleCIL(ComputedHeadStrategy):
    """Class-incremental learning without gradients: one prototype a class, cosine similarity.

    Prototypes are the means of the backbone's features of the training images under the eval
    transform. The backbone stays as it is unless a :class:`~mist_avalanche.MISTPlugin` tunes it
    before an experience; prototypes of earlier classes follow with ``drift_compensation`` alone,
    and there is a warning where they do not. No optimizer, no number of classes, no task labels.

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D). The classifier that a timm,
            torchvision or Avalanche model still has is taken off, with a warning. A last layer that
            is meant to stay goes behind such a model in a ``torch.nn.Sequential``.
        criterion: of the reported loss only.
        train_mb_size: images in a batch while prototypes are computed; changes no result.
        eval_mb_size: images in a batch of evaluation.
        device: of backbone and prototypes.
        plugins: Avalanche plugins. In training iterations ``mb_x`` are the features (B, D).
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.
        drift_compensation: where the backbone was tuned after the first experience, move the
            prototypes by the affine map, fitted on the current training images turned and
            mirrored, from features before to features after. Costs two passes over eight views of
            them. Where nothing was tuned, it has no effect, and says so.
        precision: of the backbone: ``"32"`` or ``"bf16"`` (autocast; features and all that follows
            in float32 or better).
        compile: use ``torch.compile`` for the backbone.
        cache_mb: megabytes of features of test images that stay in memory, more in a temporary
            file, until the backbone changes. ``mb_x`` are then features in evaluation too. 0 keeps
            none, and every evaluation computes all, from images; needed where features change in a
            way that :func:`~mist_avalanche.strategies.feature_cache.fingerprint` and
            :func:`~mist_avalanche.strategies.feature_cache.look` do not see. Images of a random
            eval transform are never kept.

    Raises:
        ValueError: a multi-task model, whose features depend on task labels.
        RuntimeError: evaluation before any training.
        FloatingPointError: the backbone gives NaN or Inf.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")  # tunes before the first experience
        >>> strategy = SimpleCIL(model=create_backbone(), plugins=[mist])
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
        drift_compensation: bool = False,
        precision: Literal["32", "bf16"] = "32",
        compile: bool = False,
        cache_mb: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,
            head=PrototypeHead(),
            criterion=criterion,
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            drift_compensation=drift_compensation,
            precision=precision,
            compile=compile,
            cache_mb=cache_mb,
            **kwargs,
        )

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, D) of labels (n,) to the class means."""
        self.head.update(features, labels)
