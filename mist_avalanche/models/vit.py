"""Helpers to attach prompts and adapters to timm's plain VisionTransformer by hooks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Hooks = Iterator[RemovableHandle]


def vit_blocks(model: nn.Module) -> list[Any]:
    """The blocks of timm's plain VisionTransformer.

    Raises:
        ValueError: the model is not a plain VisionTransformer, or its blocks are of another kind.
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


def before(module: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Replace the first input x of a module by ``change(x)``."""
    return module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))


def after(module: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Replace the output x of a module by ``change(x)``, which other hooks then see."""
    return module.register_forward_hook(lambda _, _inputs, x: change(x), prepend=True)


def run_with(hooks: Hooks, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run ``run(x)`` with hooks that are removed afterwards."""
    with ExitStack() as stack:
        for handle in hooks:
            stack.enter_context(handle)
        return run(x)
