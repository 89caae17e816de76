"""Hooks that put prompt tokens and prefixes into timm's VisionTransformer, and rest otherwise.

Prompt tokens are joined to the image's behind ``norm_pre``. A prefix (P_K, P_V) of length L at a
block makes its attention one over L more keys and values: L zero tokens in front of the input make
room, their rows of ``qkv``'s output become [0 | P_K | P_V], and their outputs are dropped again. So
timm's own attention computes, fused or not, and prefixes pass through no projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpointing import attach_again
from .base import Attached, Prefix


class Attachment:
    """The hooks of one ViT.

    Args:
        vit: timm's VisionTransformer.
        blocks: numbers of the blocks that may get prefixes.
    """

    def __init__(self, vit: Any, blocks: Sequence[int]) -> None:
        self.vit = vit
        self._now: Attached | None = None
        self._used: set[int] = set()
        vit.norm_pre.register_forward_hook(self._join)
        for block in blocks:
            _Prefixed(self, block).register(vit.blocks[block].attn)

    @contextmanager
    def of(self, attached: Attached) -> Iterator[None]:
        """Inside, the ViT has these prompts.

        Raises:
            ValueError: the ViT has passed over a prefix.
        """
        self._now, self._used = attached, set()
        try:
            yield
        finally:
            self._now = None
        asked = {block for block, (keys, _) in attached.prefixes.items() if keys.shape[1]}
        missed = asked - self._used
        if missed:
            raise ValueError(
                f"{type(self.vit).__name__} does not call blocks[{min(missed)}].attn.qkv, where a "
                "prefix was to be attached. Use a VisionTransformer of timm."
            )

    def keep_for_backward(self, features: Tensor, attached: Attached) -> None:
        """Under gradient checkpointing blocks run again while gradients pass: attach there too."""

        def attach() -> Callable[[], None]:
            self._now = attached
            return self._rest

        attach_again(self.vit, features, attach)

    def _rest(self) -> None:
        self._now = None

    def _join(self, _module: nn.Module, _inputs: Any, x: Tensor) -> Tensor | None:
        """Prompt tokens between the class token, if any, and the patches."""
        if self._now is None or self._now.tokens is None:
            return None
        first = self.vit.num_prefix_tokens
        return torch.cat([x[:, :first], self._now.tokens.to(x.dtype), x[:, first:]], dim=1)

    def prefix(self, block: int) -> Prefix | None:
        """What a block is to have now; None for nothing."""
        prefix = None if self._now is None else self._now.prefixes.get(block)
        return None if prefix is None or prefix[0].shape[1] == 0 else prefix

    def seen(self, block: int) -> None:
        """A block has attended to its prefix."""
        self._used.add(block)


class _Prefixed:
    """The hooks of one block's attention."""

    def __init__(self, attachment: Attachment, block: int) -> None:
        self.attachment, self.block = attachment, block

    def register(self, attn: Any) -> None:
        attn.register_forward_pre_hook(self._make_room)
        attn.qkv.register_forward_hook(self._put)
        attn.register_forward_hook(self._drop)

    def _make_room(self, _module: nn.Module, inputs: Any) -> Any:
        if (prefix := self.attachment.prefix(self.block)) is None:
            return None
        x, *others = inputs  # (B, n, D)
        room = x.new_zeros(len(x), prefix[0].shape[1], x.shape[2])
        return torch.cat([room, x], dim=1), *others

    def _put(self, _module: nn.Module, _inputs: Any, qkv: Tensor) -> Tensor | None:
        if (prefix := self.attachment.prefix(self.block)) is None:
            return None
        self.attachment.seen(self.block)
        keys, values = (part.to(qkv.dtype) for part in prefix)  # (B, L, D)
        rows = torch.cat([torch.zeros_like(keys), keys, values], dim=2)
        return torch.cat([rows, qkv[:, keys.shape[1] :]], dim=1)  # (B, L + n, 3D)

    def _drop(self, _module: nn.Module, _inputs: Any, out: Tensor) -> Tensor | None:
        prefix = self.attachment.prefix(self.block)
        return None if prefix is None else out[:, prefix[0].shape[1] :]
