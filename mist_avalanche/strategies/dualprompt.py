"""DualPrompt: general and expert prefixes (Wang et al., arXiv 2204.04799)."""

from collections.abc import Sequence

from torch import nn
from typing_extensions import Unpack

from ..models.prompts.base import choose_blocks
from ..models.prompts.experts import GeneralExpertPrompts
from ..models.vit import vit_size
from .base import Common
from .prompt_based import PromptStrategy
from .registry import register


@register(
    "dualprompt", title="DualPrompt", paper="arXiv 2204.04799", needs="vit", stores="prompts, keys"
)
class DualPrompt(PromptStrategy):
    """Learns general prefixes for all experiences, and one expert per experience, found by its key.

    Prefixes are keys and values that precede those of the image in the attention of a block. The
    general ones are trained in every experience, the expert and the key κ_t of experience t only in
    that experience, on its images. In evaluation, an image uses the expert whose key κ_t is nearest
    to its query q, its feature from the frozen ViT. The loss is the cross-entropy over the
    experience's classes minus λ cos(q, κ_t), which draws the key towards the queries.

    Defaults are those of LAMDA-PILOT for ViT-B/16 and CIFAR-100, with the authors' clipping.

    Args:
        general_length, expert_length: number of rows of a key prefix and of a value prefix.
        general_blocks: blocks with general prefixes; None for 0 and 1.
        expert_blocks: blocks with expert prefixes; None for those of 2, 3, 4 that the ViT has.
        key_loss_weight: λ.
        seed: seed of the prompts' initialisation.
        model, lr, clip_grad_norm: see :class:`~.prompt_based.PromptStrategy`.
        train_mb_size, train_epochs, common: see :class:`~.base.PretrainedStrategy`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        general_length: int = 5,
        expert_length: int = 5,
        general_blocks: Sequence[int] | None = None,
        expert_blocks: Sequence[int] | None = None,
        key_loss_weight: float = 0.1,
        seed: int = 0,
        lr: float = 0.001,
        clip_grad_norm: float | None = 1.0,
        train_mb_size: int = 24,
        train_epochs: int = 5,
        **common: Unpack[Common],
    ) -> None:
        n_features, depth = vit_size(model)
        general = choose_blocks("general_blocks", general_blocks, depth, published=(0, 1))
        expert = choose_blocks("expert_blocks", expert_blocks, depth, published=(2, 3, 4))
        super().__init__(
            model=model,
            prompts=GeneralExpertPrompts(
                n_features,
                general_length=general_length,
                expert_length=expert_length,
                general_blocks=general,
                expert_blocks=expert,
                key_loss_weight=key_loss_weight,
                seed=seed,
            ),
            lr=lr,
            clip_grad_norm=clip_grad_norm,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )
