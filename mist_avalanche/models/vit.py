"""What it takes to attach prompts and adapters to timm's VisionTransformer by hooks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn


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


def run_attached(
    vit: nn.Module,
    x: Tensor,
    attach: Callable[[], AbstractContextManager[Any]],
    *,
    run: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What a ViT gives for images while something is attached to it.

    Gradient checkpointing runs the blocks again in the backward pass, and needs it attached there
    as well.

    Args:
        vit: of timm.
        x: images.
        attach: gives a context manager that attaches it; called again for the backward pass.
        run: called with the images; None for the ViT itself.
    """
    with attach():
        output = (run or vit)(x)
    if output.requires_grad and getattr(vit, "grad_checkpointing", False):
        output.register_hook(lambda _gradient: _attach_until_backward_ends(attach()))
    return output


def _attach_until_backward_ends(attached: AbstractContextManager[Any]) -> None:
    stack = ExitStack()
    stack.enter_context(attached)
    torch.autograd.Variable._execution_engine.queue_callback(stack.close)
