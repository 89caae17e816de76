"""CODA-Prompt: decomposed attention-based prompts (Smith et al., arXiv 2211.13218)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import nn

from ..models.prompts import ComponentPrompts
from ._prompting import PromptStrategy, blocks_of, plain_vit


class CODAPrompt(PromptStrategy):
    """Prefixes that are sums of components, each weighted by how well it fits the image.

    See :class:`~mist_avalanche.models.prompts.ComponentPrompts`. The ViT is frozen; it is tuned
    before the first experience where there is a :class:`~mist_avalanche.MISTPlugin`. Every
    experience adds components and freezes the earlier ones. No optimizer, no number of classes or
    experiences, no task labels. Defaults are the published ones for ViT-B/16 and CIFAR-100.

    Args:
        model: a VisionTransformer of timm, images (B, C, H, W) to features (B, D). The classifier
            that it still has is taken off, with a warning.
        per_experience: components that an experience adds; all of them together are at most D.
        length: rows of a component, half of them for keys and half for values.
        blocks: blocks with prefixes; None for those of 0 to 4 that the ViT has.
        orthogonality: μ, the weight of the penalty on components that are not orthogonal.
        lr: of Adam.
        schedule: ``"cosine"`` as published, or ``"constant"``.
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
        ValueError: an argument out of its range, more experiences than there is room for, a model
            without ``blocks[i].attn.qkv``, or a MISTPlugin that tunes before every experience.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")  # tunes before the first experience
        >>> strategy = CODAPrompt(model=create_backbone(), lr=0.02, plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        per_experience: int = 10,
        length: int = 8,
        blocks: Sequence[int] | None = None,
        orthogonality: float = 0.0,
        lr: float = 0.001,
        schedule: Literal["constant", "cosine"] = "cosine",
        clip_grad_norm: float | None = None,
        seed: int = 0,
        criterion: nn.Module | None = None,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        precision: Literal["32", "bf16"] = "32",
        cache_mb: int = 2000,
        **kwargs: Any,
    ) -> None:
        n_features, depth = plain_vit(model, "CODAPrompt")
        prompts = ComponentPrompts(
            n_features,
            per_experience,
            length,
            blocks_of("blocks", blocks, (0, 1, 2, 3, 4), depth),
            orthogonality,
            seed,
        )
        super().__init__(
            model=model,
            prompts=prompts,
            head_std=None,
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
