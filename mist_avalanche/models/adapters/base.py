"""What adapts a ViT: parameters of their own, attached by hooks for as long as they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..._support.randomness import derive_seed
from ..checkpointing import attach_again
from ..prompts import vit_depth


class AdaptingModule(nn.Module, ABC):
    """Parameters that change what a model computes while they are attached, and only then.

    They have the dtype and device of the model that they were made for. Of several made for one
    model, one is attached at a time. Names, values and ``requires_grad`` of the model's own
    parameters stay as they are.

    Attributes:
        settings: arguments that make the module again, for the same model, but for the seed.
    """

    settings: dict[str, Any]

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Inside, ``model(x)`` is the adapted one; afterwards it is as before, come what may.

        Raises:
            ValueError: another module is attached to the model, or this one does not fit it.
        """
        for hook in model._forward_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, AdaptingModule):
                raise ValueError(
                    f"{type(other).__name__} is attached to this {type(model).__name__} already. "
                    "Leave its `attached` before you attach another."
                )
        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(self._marker).remove)
            self._attach(model, stack)
            yield

    def _marker(self, _module: nn.Module, _inputs: Any) -> None:
        """Shows on a model that this is attached."""

    @abstractmethod
    def _attach(self, model: Any, stack: ExitStack) -> None:
        """Change what the model computes; the stack takes what undoes it."""

    def of(self, model: nn.Module, x: Tensor) -> Tensor:
        """Features (B, D) of images by the adapted model, under gradient checkpointing as well."""
        with self.attached(model):
            features: Tensor = model(x)

        def attach() -> Callable[[], None]:
            stack = ExitStack()
            stack.enter_context(self.attached(model))
            return stack.close

        attach_again(model, features, attach)
        return features


def blocks_of_vit(model: nn.Module) -> list[Any]:
    """The blocks of a ViT that modules can be attached to.

    Raises:
        ValueError: the model has no blocks of timm's kind.
    """
    blocks: Any = getattr(model, "blocks", None)
    vit_depth(model)
    if not all(isinstance(block, Block) for block in blocks):
        raise ValueError(
            f"Adapters, scales and prompt tokens are attached to the blocks of timm's plain "
            f"VisionTransformer, and those of {type(model).__name__} are of another kind. Use a "
            "backbone such as vit_base_patch16_224, deit_tiny_patch16_224 or 'embedded'."
        )
    return list(blocks)


def check_fits(module: AdaptingModule, model: nn.Module, depth: int) -> list[Any]:
    """The blocks of a ViT of some depth.

    Raises:
        ValueError: it has another depth.
    """
    blocks = blocks_of_vit(model)
    if len(blocks) != depth:
        raise ValueError(
            f"{type(module).__name__} was made for a ViT of {depth} blocks, and this "
            f"{type(model).__name__} has {len(blocks)}. Make one for it."
        )
    return blocks


def like(model: nn.Module) -> Tensor:
    """An empty tensor of a model's dtype and device."""
    return next(model.parameters()).detach().new_zeros(0)


def generator(seed: int, *path: int) -> torch.Generator:
    """Random numbers for a purpose, on the CPU."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))
