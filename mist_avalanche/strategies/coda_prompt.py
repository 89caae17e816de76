"""CODA-Prompt: decomposed attention-based prompts (Smith et al., arXiv 2211.13218)."""

import math
from collections.abc import Sequence

from torch import nn
from typing_extensions import Unpack

from ..models.prompts.base import choose_blocks
from ..models.prompts.components import ComponentPrompts
from ..models.vit import vit_size
from .base import Common
from .prompt_based import PromptStrategy
from .registry import register


@register(
    "codaprompt", title="CODA-Prompt", paper="arXiv 2211.13218", needs="vit", stores="prompts, keys"
)
class CODAPrompt(PromptStrategy):
    """Learns prefixes as sums of components, each weighted by how well it matches the image.

    Prefixes are keys and values that precede those of the image in the attention of a block. In
    each block, p = Σ_m α_m P_m with α_m = cos(q ⊙ A_m, K_m), where the query q is the image's
    feature from the frozen ViT. Every experience adds components P_m, keys K_m and attention
    vectors A_m, orthogonal to all earlier ones, and freezes those. The loss is the cross-entropy
    over the experience's classes plus μ times a penalty on non-orthogonal P, K and A.

    Defaults are the published ones for ViT-B/16 and CIFAR-100.

    Args:
        per_experience: components that an experience adds; at most D in total.
        length: rows of a component, half of them for keys and half for values.
        blocks: blocks with prefixes; None for those of blocks 0 to 4 that the ViT has.
        orthogonality: μ.
        seed: seed of the prompts' initialisation.
        model, lr, clip_grad_norm: see :class:`~.prompt_based.PromptStrategy`.
        train_mb_size, train_epochs, common: see :class:`~.base.PretrainedStrategy`.

    Raises:
        ValueError: there are more experiences than orthogonal components allow.
    """

    head_std = None  # the initialisation of nn.Linear

    def __init__(
        self,
        *,
        model: nn.Module,
        per_experience: int = 10,
        length: int = 8,
        blocks: Sequence[int] | None = None,
        orthogonality: float = 0.0,
        seed: int = 0,
        lr: float = 0.001,
        clip_grad_norm: float | None = None,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        **common: Unpack[Common],
    ) -> None:
        n_features, depth = vit_size(model)
        super().__init__(
            model=model,
            prompts=ComponentPrompts(
                n_features,
                per_experience=per_experience,
                length=length,
                blocks=choose_blocks("blocks", blocks, depth, published=(0, 1, 2, 3, 4)),
                orthogonality=orthogonality,
                seed=seed,
            ),
            lr=lr,
            clip_grad_norm=clip_grad_norm,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )

    def schedule(self, epoch: int) -> float:
        """Factor on the learning rate in an epoch, counted from 0."""
        return coda_cosine(epoch, self.train_epochs)


def coda_cosine(epoch: int, epochs: int) -> float:
    """Factor on the learning rate in epoch e of E, counted from 0.

    cos(99π · max(e - 1, 0) / (200 (E - 1))), which stays at 1 for the first two epochs.
    """
    return math.cos(99 * math.pi * max(epoch - 1, 0) / (200 * max(epochs - 1, 1)))
