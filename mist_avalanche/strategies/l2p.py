"""L2P: Learning to Prompt (Wang et al., arXiv 2112.08654)."""

from torch import nn
from typing_extensions import Unpack

from ..models.prompts.pool import PromptPool
from ..models.vit import vit_size
from .base import Common
from .prompt_based import PromptStrategy
from .registry import register


@register("l2p", title="L2P", paper="arXiv 2112.08654", needs="vit", stores="prompts, keys")
class L2P(PromptStrategy):
    """Learns a pool of prompts; every image uses those with the nearest keys.

    The query q of an image is its feature from the frozen ViT. The image uses the N of M prompts
    with the largest cos(q, κ_m). Their tokens pass through the ViT with those of the image, and the
    mean of their outputs goes to a linear classifier. The loss is the cross-entropy over the
    experience's classes minus λ Σ_chosen cos(q, κ_m), which draws chosen keys towards the queries.

    Defaults are those of LAMDA-PILOT for ViT-B/16 and CIFAR-100, with the authors' clipping.

    Args:
        size: M, prompts in the pool.
        length: tokens per prompt.
        top_k: N, prompts per image.
        key_loss_weight: λ.
        batchwise: in training, all images of a batch use the prompts that most of them chose, as
            published. In evaluation, each image always chooses its own: a batch from a single
            experience would otherwise reveal that experience.
        seed: seed of the prompts' initialisation.
        model, lr, clip_grad_norm: see :class:`~.prompt_based.PromptStrategy`.
        train_mb_size, train_epochs, common: see :class:`~.base.PretrainedStrategy`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        size: int = 10,
        length: int = 5,
        top_k: int = 5,
        key_loss_weight: float = 0.1,
        batchwise: bool = False,
        seed: int = 0,
        lr: float = 0.001875,
        clip_grad_norm: float | None = 1.0,
        train_mb_size: int = 16,
        train_epochs: int = 5,
        **common: Unpack[Common],
    ) -> None:
        n_features, _ = vit_size(model)
        super().__init__(
            model=model,
            prompts=PromptPool(
                n_features,
                size=size,
                length=length,
                top_k=top_k,
                key_loss_weight=key_loss_weight,
                batchwise=batchwise,
                seed=seed,
            ),
            lr=lr,
            clip_grad_norm=clip_grad_norm,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )
