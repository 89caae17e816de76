"""A backbone with what adapts it and a classifier, seen as one model from images to logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..forward import Forward
from ..heads import BackboneWithHead
from .base import AdaptingModule


class AdaptedBackbone(BackboneWithHead):
    """Images to logits, of features of the adapted backbone, alone or behind those of the plain.

    Args:
        backbone: images (B, C, H, W) to features (B, D).
        head: features to logits (B, C).
        both: features are [plain, adapted] (B, 2 D), instead of the adapted alone (B, D).
        precision: of the backbone: ``"32"``, or ``"bf16"`` (autocast).

    Attributes:
        adapter: None until there is one; the backbone is then the adapted one itself.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, *, both: bool, precision: str = "32"
    ) -> None:
        super().__init__(backbone, head)
        self.both = both
        self.adapter: AdaptingModule | None = None
        self._run = Forward(precision)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images."""
        logits: Tensor = self.head(self.features(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """What the head gets of images."""
        if not self.both:
            return self.adapted(x)
        plain = self._run(self.backbone, x)
        return torch.cat([plain, self.adapted(x) if self.adapter else plain], dim=1)

    def adapted(self, x: Tensor) -> Tensor:
        """Features (B, D) of images by the adapted backbone."""
        adapter = self.adapter
        if adapter is None:
            return self._run(self.backbone, x)
        return self._run(lambda images: adapter.of(self.backbone, images), x)
