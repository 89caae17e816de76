"""Several adapters in one pass through the ViT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter


class StackedAdapters(Adapter):
    """Adapters of one ViT, each beside its share of the batch.

    Each image is in the batch once for each adapter, behind the patch embedding, which is computed
    once. On a GPU this is 1.1 to 4 times as fast as a pass for each, and most where a pass is
    short; on a CPU it is slower with DeiT-Tiny (``studies/performance/subspaces.py``).

    Args:
        adapters: at least one, in eval mode.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        nn.Module.__init__(self)
        self.members, self.down = nn.ModuleList(adapters), adapters[0].down

    def added(self, block: int, h: Tensor) -> Tensor:
        """What a block adds to its stream h (S B, n, D)."""
        members: Any = self.members
        shares = h.chunk(len(members))
        return torch.cat([m.added(block, share) for m, share in zip(members, shares, strict=True)])

    def of(self, model: nn.Module, x: Tensor) -> Tensor:
        """Features (B, S, D) of images (B, 3, H, W), without gradient."""
        n, vit = len(self.members), model
        embedding: Any = vit.patch_embed
        repeat = embedding.register_forward_hook(
            lambda _module, _images, out: out.repeat(n, *[1] * (out.ndim - 1))
        )
        try:
            with torch.no_grad(), self.attached(vit):
                features: Tensor = vit(x)
        finally:
            repeat.remove()
        return features.reshape(n, len(x), -1).transpose(0, 1)
