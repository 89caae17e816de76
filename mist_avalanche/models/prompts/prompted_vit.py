"""A ViT with prompts and a classifier, as one model from images to logits.

Hooks attach prompts to timm's VisionTransformer for one pass at a time; otherwise the ViT is
unchanged. Prompt tokens are inserted before the patch tokens, after ``norm_pre``. A prefix
(P_K, P_V) of length L gives the attention of a block L more keys and values: L zero tokens are
prepended to its input, their rows in the output of ``qkv`` become [0 | P_K | P_V], and their
outputs are dropped. Timm's own attention is used, fused or not, and prefixes are not projected.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone_with_head import BackboneWithHead
from ..vit import Hooks, after, before, run_with
from .base import PromptModule, PromptOutput


class PromptedViT(BackboneWithHead):
    """Images to logits, by two passes through one frozen ViT.

    The first pass, without prompts and without gradient, returns the ViT's features as the query.
    The second pass uses the prompts for this query. Features are the mean output at the prompt
    tokens if there are any, otherwise the ViT's own features.

    Args:
        backbone: timm's VisionTransformer without classifier.
        prompts: prompt module that matches the ViT's width and blocks.
        head: features (B, D) to logits (B, C).
    """

    def __init__(self, backbone: nn.Module, prompts: PromptModule, head: nn.Module) -> None:
        super().__init__(backbone, head)
        self.prompts = prompts
        self.output: PromptOutput | None = None  # of the last batch
        backbone.eval()

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Logits (B, C) of images; their queries (B, D) are computed unless they are given."""
        return self.head(self.features(x, query))

    @torch.no_grad()
    def query(self, x: Tensor) -> Tensor:
        """Features (B, D) without prompts and without gradient."""
        return self.run_backbone(self.backbone, x)

    def features(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Features (B, D) with prompts; the prompts are stored in :attr:`output`."""
        self.output = self.prompts(self.query(x) if query is None else query)
        return self.run_backbone(partial(self._with_prompts, self.output), x)

    def _with_prompts(self, output: PromptOutput, x: Tensor) -> Tensor:
        """Features (B, D) of images with these prompts."""
        vit: Any = self.backbone
        if output.tokens is None:
            return run_with(_hooks(vit, output), vit, x)
        tokens = run_with(_hooks(vit, output), vit.forward_features, x)
        first = vit.num_prefix_tokens
        last = first + output.tokens.shape[1]
        return vit.fc_norm(tokens[:, first:last].mean(1))

    def train(self, mode: bool = True) -> "PromptedViT":
        """Set the mode as in torch, but keep the ViT in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """State without the last output, whose autograd graph cannot be copied."""
        return {**vars(self), "output": None}


def _hooks(vit: Any, output: PromptOutput) -> Hooks:
    """Attach prompts to a ViT until the handles are removed."""
    if output.tokens is not None:
        tokens, first = output.tokens, vit.num_prefix_tokens  # after the class token, if any
        yield after(
            vit.norm_pre, lambda x: torch.cat([x[:, :first], tokens.to(x.dtype), x[:, first:]], 1)
        )
    for block, (keys, values) in output.prefixes.items():
        yield from _prefix_hooks(vit.blocks[block].attn, keys, values)


def _prefix_hooks(attn: Any, keys: Tensor, values: Tensor) -> Hooks:
    """Attach a prefix, keys and values (B, L, D), to an attention module."""
    length = keys.shape[1]

    def make_room(x: Tensor) -> Tensor:  # (B, n, D)
        return torch.cat([x.new_zeros(len(x), length, x.shape[2]), x], dim=1)

    def fill(qkv: Tensor) -> Tensor:  # (B, L + n, 3D)
        prefix = torch.cat([torch.zeros_like(keys), keys, values], dim=2).to(qkv.dtype)
        return torch.cat([prefix, qkv[:, length:]], dim=1)

    yield before(attn, make_room)
    yield after(attn.qkv, fill)
    yield after(attn, lambda x: x[:, length:])
