"""timm's plain VisionTransformer, to which prompts and adapters are attached by hooks."""

from __future__ import annotations

from typing import Any, cast

from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn


def vit_blocks(model: nn.Module) -> list[Any]:
    """The blocks of timm's plain VisionTransformer.

    Raises:
        ValueError: the model is not one, or its blocks are of another kind.
    """
    blocks: list[Any] = list(model.blocks) if isinstance(model, VisionTransformer) else []
    if not blocks or not all(isinstance(block, Block) for block in blocks):
        raise ValueError(
            "Prompts and adapters are attached to the blocks of timm's plain VisionTransformer, "
            f"and {type(model).__name__} has none. Use a backbone such as vit_base_patch16_224, "
            "deit_tiny_patch16_224 or 'embedded'."
        )
    return blocks


def vit_size(model: nn.Module) -> tuple[int, int]:
    """Width D and number of blocks of timm's plain VisionTransformer, or ValueError."""
    depth, vit = len(vit_blocks(model)), cast(Any, model)
    return int(vit.embed_dim), depth
