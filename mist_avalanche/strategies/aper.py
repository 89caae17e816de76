"""APER: adapt to the first experience, and merge with the plain backbone (arXiv 2303.07338)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn

from .._support.checks import check_integer
from ..models.heads import PrototypeHead
from ..plugin import MISTPlugin
from ._first_session import FirstSessionStrategy
from ._session import FirstSession


class APER(FirstSessionStrategy):
    """Class means of [plain, adapted] features, adapted to the first experience alone.

    In the first experience an adapter trains, with a cosine classifier that is thrown away, in
    Avalanche's loop: SGD with momentum 0.9, cosine schedule, cross-entropy. Afterwards nothing
    trains. An image is f(x) = [φ(x), φ_adapted(x)] (2 D,), a class the mean of f over its training
    images under the eval transform, and logits are cosines of the two, normalised as a whole. A
    :class:`~mist_avalanche.MISTPlugin` tunes the backbone before, so that both halves have it, and
    before the first experience only. No optimizer, no number of classes, no task labels. Defaults
    are those of the authors for ViT-B/16.

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D): a VisionTransformer of timm,
            or any with ``adapter="finetune"``. The classifier that it still has is taken off, with
            a warning.
        adapter: ``"adapter"`` (AdaptFormer), ``"ssf"`` (scales and shifts), ``"vpt_deep"`` or
            ``"vpt_shallow"`` (prompt tokens); the backbone is then frozen. ``"finetune"``: all of
            the backbone, of which a second copy is kept.
        bottleneck: width of ``"adapter"``, None for 64.
        dropout: in ``"adapter"`` while it trains, None for 0.1.
        n_prompts: tokens of ``"vpt_deep"`` and ``"vpt_shallow"``, None for 5.
        lr: learning rate; None for the adapter's own, as for epochs and batch (0.01, 20, 48; for
            ``"vpt_deep"`` 0.05, 5, 16; for ``"finetune"`` 0.01, 5, 128).
        train_epochs: passes over the first experience.
        train_mb_size: images in a batch, of class means too, which do not depend on it.
        weight_decay: of all that trains.
        min_lr: that the schedule approaches.
        masks_steps: let a MISTPlugin mask the steps of ``"finetune"`` too, so that no entry moves
            that it has not selected.
        seed: of the start, the order of the images, and their random transforms.
        criterion: None for cross-entropy.
        eval_mb_size: images in a batch of evaluation; changes no result.
        device: of the model.
        plugins: Avalanche plugins. ``mb_x`` are images in the epochs of the first experience, and
            features (B, 2 D) in the epoch that each experience ends with.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche; while the first experience trains, with its own classifier.
        precision: of the backbone: ``"32"`` or ``"bf16"`` (autocast; what trains is in float32).
        cache_mb: megabytes of features of test images that stay in memory, as for
            :class:`~mist_avalanche.strategies.SimpleCIL`.

    Raises:
        ValueError: an argument out of its range or of another adapter, a backbone without the
            blocks that an adapter needs, or a MISTPlugin that tunes before every experience.
        RuntimeError: evaluation before any training.
        FloatingPointError: the backbone gives NaN or Inf.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")  # tunes before the first experience
        >>> strategy = APER(model=create_backbone(), lr=0.1, plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    tune_on = "first"  # the adapter belongs to the backbone that it was trained on
    can_follow = False

    def __init__(
        self,
        *,
        model: nn.Module,
        adapter: Literal["adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune"] = "adapter",
        bottleneck: int | None = None,
        dropout: float | None = None,
        n_prompts: int | None = None,
        lr: float | None = None,
        train_epochs: int | None = None,
        train_mb_size: int | None = None,
        weight_decay: float = 5e-4,
        min_lr: float = 0.0,
        masks_steps: bool = False,
        seed: int = 0,
        criterion: nn.Module | None = None,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        precision: Literal["32", "bf16"] = "32",
        cache_mb: int = 2000,
        **kwargs: Any,
    ) -> None:
        given = {
            "lr": lr,
            "train_epochs": train_epochs,
            "train_mb_size": train_mb_size,
            "weight_decay": weight_decay,
            "min_lr": min_lr,
            "bottleneck": bottleneck,
            "dropout": dropout,
            "n_prompts": n_prompts,
        }
        session = FirstSession.of(adapter, check_integer("seed", seed, 0), given)
        if masks_steps and adapter != "finetune":
            raise ValueError(
                f"`masks_steps` has no effect with {adapter!r}, whose backbone is frozen. Leave it "
                "away."
            )
        super().__init__(
            model=model,
            head=PrototypeHead(),
            session=session,
            both=True,
            criterion=criterion,
            train_mb_size=session.train_mb_size,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            drift_compensation=False,
            precision=precision,
            compile=False,
            cache_mb=cache_mb,
            **kwargs,
        )
        self.masks_steps = masks_steps
        if any(isinstance(p, MISTPlugin) and p.options.tune_on == "every" for p in self.plugins):
            raise ValueError(
                "APER cannot go along with a backbone that is tuned before every experience: its "
                "adapter and class means are of the features that they were made on. Use "
                "MISTPlugin(tune_on='first') (--mist-arg tune_on=first)."
            )

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, 2 D) of labels (n,) to the class means."""
        self.head.update(features, labels)
