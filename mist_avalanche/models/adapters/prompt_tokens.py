"""VPT: tokens that a frozen ViT has besides the image's (Jia et al., arXiv 2203.12119)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.checks import check_integer
from .base import AdaptingModule, blocks_of_vit, check_fits, like


class PromptTokens(AdaptingModule):
    """n tokens behind the image's, without position, starting from zero.

    Shallow: one set (1, n, D), which joins before the first block and leaves before the final norm.
    Deep: a set for each block (depth, n, D), which joins before it and leaves after it.

    Args:
        vit: a VisionTransformer of timm.
        n_prompts: n.
        deep: a set for each block.
        seed: has no part in it; nothing is drawn.

    Attributes:
        prompts: the tokens.

    Raises:
        ValueError: a backbone of another kind, or an argument out of its range.
    """

    def __init__(
        self, vit: nn.Module, n_prompts: int = 5, *, deep: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        n, self.deep = check_integer("n_prompts", n_prompts, 1), deep
        self.settings = {"n_prompts": n, "deep": deep}
        self.depth = len(blocks_of_vit(vit))
        width = int(getattr(vit, "embed_dim", 0))
        sets = self.depth if deep else 1
        self.prompts = nn.Parameter(torch.zeros(sets, n, width).to(like(vit)))

    def _attach(self, model: Any, stack: ExitStack) -> None:
        blocks = check_fits(self, model, self.depth)
        for block, prompts in zip(blocks, self.prompts, strict=False):
            hook = _Joined(prompts)
            stack.callback(block.register_forward_pre_hook(hook.join).remove)
            if self.deep:
                stack.callback(block.register_forward_hook(hook.leave).remove)
            else:
                stack.callback(model.norm.register_forward_pre_hook(hook.leave_before).remove)


class _Joined:
    """The hooks of one set of tokens (n, D)."""

    def __init__(self, prompts: Tensor) -> None:
        self.prompts = prompts

    def join(self, _module: nn.Module, inputs: Any) -> Any:
        x, *others = inputs  # (B, N, D)
        tokens = self.prompts.to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x, tokens], dim=1), *others

    def leave(self, _module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        return out[:, : -len(self.prompts)]

    def leave_before(self, _module: nn.Module, inputs: Any) -> Any:
        x, *others = inputs
        return x[:, : -len(self.prompts)], *others
