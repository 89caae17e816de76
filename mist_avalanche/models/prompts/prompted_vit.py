"""A ViT with prompts and a classifier, seen as one model from images to logits.

Prompts are attached to timm's VisionTransformer by hooks, for one pass at a time; outside of it the
ViT is the plain one. Prompt tokens join those of the image behind ``norm_pre``. A prefix (P_K, P_V)
of length L gives the attention of a block L more keys and values: L zero tokens in front of its
input make room, their rows of ``qkv``'s output become [0 | P_K | P_V], and their outputs are
dropped. So timm's own attention computes, fused or not, and prefixes pass through no projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..backbone_with_head import BackboneWithHead
from ..vit import vit_blocks
from .base import PromptModule, PromptOutput


class PromptedViT(BackboneWithHead):
    """Images to logits, by two passes through one frozen ViT.

    The first pass, without prompts and without gradient, gives the query: the ViT's features. The
    second has the prompts that belong to the query. Features are the mean of the outputs at the
    prompt tokens where there are any, otherwise the ViT's own.

    Args:
        backbone: timm's VisionTransformer without classifier.
        prompts: of the ViT's width and for blocks that it has.
        head: features (B, D) to logits (B, C).

    Attributes:
        output: the prompts of the last batch.
    """

    def __init__(self, backbone: nn.Module, prompts: PromptModule, head: nn.Module) -> None:
        vit_blocks(backbone)  # or a ValueError
        super().__init__(backbone, head)
        self.prompts = prompts
        self.output: PromptOutput | None = None
        backbone.eval()

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Logits (B, C) of images; their queries (B, D) are computed where they are not given."""
        logits: Tensor = self.head(self.features(x, query))
        return logits

    @torch.no_grad()
    def query(self, x: Tensor) -> Tensor:
        """Features (B, D) without prompts and without gradient."""
        return self.run_backbone(self.backbone, x)

    def features(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Features (B, D) with prompts, which are in :attr:`output` afterwards."""
        self.output = self.prompts(self.query(x) if query is None else query)
        return self.run_backbone(partial(self._with_prompts, self.output), x)

    def _with_prompts(self, output: PromptOutput, x: Tensor) -> Tensor:
        """Features (B, D) of images with these prompts."""
        vit: Any = self.backbone
        with ExitStack() as stack:
            for handle in _hooks(vit, output):
                stack.enter_context(handle)
            features: Tensor = vit(x) if output.tokens is None else vit.forward_features(x)
        if output.tokens is None:
            return features
        first = vit.num_prefix_tokens
        last = first + output.tokens.shape[1]
        features = vit.fc_norm(features[:, first:last].mean(1))
        return features

    def train(self, mode: bool = True) -> PromptedViT:
        """As in torch, but the ViT stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the last output, whose graph of gradients cannot be copied."""
        return {**vars(self), "output": None}


def _hooks(vit: Any, output: PromptOutput) -> Iterator[RemovableHandle]:
    """Attach prompts to a ViT until the handles are removed."""
    if output.tokens is not None:
        insert = partial(_insert_tokens, output.tokens, vit.num_prefix_tokens)
        yield vit.norm_pre.register_forward_hook(insert)
    for block, (keys, values) in output.prefixes.items():
        yield from _prefix_hooks(vit.blocks[block].attn, keys, values)


def _insert_tokens(
    tokens: Tensor, first: int, _module: nn.Module, _inputs: Any, x: Tensor
) -> Tensor:
    """Tokens (B, L, D) between the class token, if any, and the patches of x (B, n, D)."""
    return torch.cat([x[:, :first], tokens.to(x.dtype), x[:, first:]], dim=1)


def _prefix_hooks(attn: Any, keys: Tensor, values: Tensor) -> Iterator[RemovableHandle]:
    """Attach a prefix (B, L, D) to an attention."""
    length = keys.shape[1]

    def make_room(_module: nn.Module, inputs: Any) -> Any:
        x, *others = inputs  # (B, n, D)
        return torch.cat([x.new_zeros(len(x), length, x.shape[2]), x], dim=1), *others

    def fill(_module: nn.Module, _inputs: Any, qkv: Tensor) -> Tensor:
        prefix = torch.cat([torch.zeros_like(keys), keys, values], dim=2).to(qkv.dtype)
        return torch.cat([prefix, qkv[:, length:]], dim=1)  # (B, L + n, 3D)

    def drop(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        return out[:, length:]

    yield attn.register_forward_pre_hook(make_room)
    yield attn.qkv.register_forward_hook(fill)
    yield attn.register_forward_hook(drop, prepend=True)  # other hooks see n outputs
