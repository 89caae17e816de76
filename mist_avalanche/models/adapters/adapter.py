"""AdaptFormer's parallel adapter (Chen et al., arXiv 2205.13535)."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.checks import check_integer, check_rate
from .base import AdaptingModule, blocks_of_vit, check_fits, generator, like


class Adapter(AdaptingModule):
    """y = h + mlp(norm2(h)) + s · up(relu(down(h))) in every block of a ViT.

    h (B, n, D) is the block's stream after its attention, not normalised; down: D to r and up: r to
    D are linear with bias. The sum comes after LayerScale and drop path. It starts as the identity:
    down from U(-1/√D, 1/√D), all else zero. 1,189,632 parameters for ViT-B/16 and r = 64.

    Args:
        vit: a VisionTransformer of timm.
        bottleneck: r.
        scale: s; of up's bias as well.
        dropout: of relu's output, in training.
        seed: of the start.

    Attributes:
        down, up: a linear layer a block.

    Raises:
        ValueError: a backbone of another kind, or an argument out of its range.

    Example:
        >>> adapter = Adapter(vit)
        >>> with adapter.attached(vit):
        ...     features = vit(images)
    """

    def __init__(
        self,
        vit: nn.Module,
        bottleneck: int = 64,
        scale: float = 0.1,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        r = check_integer("bottleneck", bottleneck, 1)
        self.scale = check_rate("scale", scale, "(0, inf)")
        self.dropout = nn.Dropout(check_rate("dropout", dropout, "[0, 1)"))
        self.settings = {"bottleneck": r, "scale": self.scale, "dropout": self.dropout.p}
        depth, model = len(blocks_of_vit(vit)), vit
        width = int(getattr(model, "embed_dim", 0))
        with torch.random.fork_rng(devices=[]):  # torch draws for layers that are drawn again
            self.down = nn.ModuleList(nn.Linear(width, r) for _ in range(depth))
            self.up = nn.ModuleList(nn.Linear(r, width) for _ in range(depth))
        numbers, bound = generator(seed), 1 / math.sqrt(width)
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter)
            if name.startswith("down") and name.endswith("weight"):
                nn.init.uniform_(parameter, -bound, bound, generator=numbers)
        self.to(like(vit))

    def _attach(self, model: Any, stack: ExitStack) -> None:
        for i, block in enumerate(check_fits(self, model, len(self.down))):
            beside = _Beside(self, i)
            stack.callback(block.norm2.register_forward_pre_hook(beside.note).remove)
            stack.callback(block.drop_path2.register_forward_hook(beside.add).remove)

    def added(self, block: int, h: Tensor) -> Tensor:
        """What a block adds to its stream h (B, n, D)."""
        change: Tensor = self.up[block](self.dropout(self.down[block](h).relu()))
        return self.scale * change


class _Beside:
    """The hooks of one block."""

    def __init__(self, adapter: Adapter, block: int) -> None:
        self.adapter, self.block = adapter, block
        self._h: Tensor | None = None

    def note(self, _module: nn.Module, inputs: Any) -> None:
        self._h = inputs[0]

    def add(self, _module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        h, self._h = self._h, None
        assert h is not None  # norm2 has run in this block
        return out + self.adapter.added(self.block, h)
