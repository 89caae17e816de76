"""L2P: learning to prompt (Wang et al., arXiv 2112.08654)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import nn

from .._support.distributed import world_size
from ..models.prompts import PromptPool
from ._prompting import PromptStrategy, plain_vit


class L2P(PromptStrategy):
    """A pool of prompt tokens, of which every image takes those whose keys are nearest.

    See :class:`~mist_avalanche.models.prompts.PromptPool`. The ViT is frozen; it is tuned before
    the first experience where there is a :class:`~mist_avalanche.MISTPlugin`. Prompts are chosen
    for each image by itself. No optimizer, no number of classes or experiences, no task labels.
    Defaults are those of LAMDA-PILOT for ViT-B/16 and CIFAR-100, with the authors' clipping.

    Args:
        model: a VisionTransformer of timm, images (B, C, H, W) to features (B, D). The classifier
            that it still has is taken off, with a warning.
        size: prompts in the pool.
        length: tokens a prompt.
        top_k: prompts an image.
        pull: λ, the weight of the cosine of queries and chosen keys.
        batchwise: in training, choose the prompts that most images of a batch choose, as published.
            The choice then depends on the batch. In evaluation, where batches are of one
            experience, that would give the experience away, and is never done.
        lr: of Adam.
        schedule: ``"constant"``, or ``"cosine"`` as CODA-Prompt's.
        clip_grad_norm: largest norm of the gradient; None for any.
        seed: of the prompts' start.
        criterion: None for cross-entropy.
        train_mb_size: images in a batch.
        train_epochs: passes over an experience.
        eval_mb_size: images in a batch of evaluation; changes no result.
        device: of the model.
        plugins: Avalanche plugins.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.
        precision: of the ViT: ``"32"`` or ``"bf16"`` (autocast; prompts, classifier and loss in
            float32).
        cache_mb: megabytes of queries of test images that stay in memory, more in a temporary file,
            until the ViT changes. 0 keeps none; needed where a plugin changes images of a batch in
            evaluation. Queries of a random eval transform are never kept.

    Raises:
        ValueError: an argument out of its range, a model without ``blocks[i].attn.qkv``, or a
            MISTPlugin that tunes before every experience.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")  # tunes before the first experience
        >>> strategy = L2P(model=create_backbone(), lr=0.02, plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        size: int = 10,
        length: int = 5,
        top_k: int = 5,
        pull: float = 0.1,
        batchwise: bool = False,
        lr: float = 0.001875,
        schedule: Literal["constant", "cosine"] = "constant",
        clip_grad_norm: float | None = 1.0,
        seed: int = 0,
        criterion: nn.Module | None = None,
        train_mb_size: int = 16,
        train_epochs: int = 5,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        precision: Literal["32", "bf16"] = "32",
        cache_mb: int = 2000,
        **kwargs: Any,
    ) -> None:
        if batchwise and world_size() > 1:
            raise ValueError(
                "With batchwise=True all images of a batch vote, and several processes have parts "
                "of it. Leave it away, or run without torchrun."
            )
        n_features, _ = plain_vit(model, "L2P")
        prompts = PromptPool(n_features, size, length, top_k, pull, batchwise, seed)
        super().__init__(
            model=model,
            prompts=prompts,
            head_std=0.02,
            lr=lr,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            precision=precision,
            cache_mb=cache_mb,
            **kwargs,
        )
