"""A backbone and a head as one model, from images to logits."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .forward import Forward

UNSEEN = -1000.0  # the logit of a class without data, as in Avalanche's IncrementalClassifier


class BackboneWithHead(nn.Module):
    """A backbone, images (B, ...) to features (B, D), and a head, features to logits (B, C).

    Attributes:
        run_backbone: how the backbone is run (precision, compiled or not).
        pretrained: a copy of the backbone before tuning, see :meth:`join`; None without it.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.run_backbone = Forward()
        self.pretrained: nn.Module | None = None

    def join(self) -> None:
        """From now on, features (B, 2 D) are those of a copy of the current backbone and its own.

        Each half has norm 1.
        """
        self.pretrained = copy.deepcopy(self.backbone).requires_grad_(False)
        self._run_pretrained = copy.copy(self.run_backbone)

    def features(self, x: Tensor) -> Tensor:
        """Features (B, D) of images, the input of the head."""
        features = self.run_backbone(self.backbone, x)
        if self.pretrained is None:
            return features
        halves = self._run_pretrained(self.pretrained, x), features
        return torch.cat([F.normalize(half, dim=1) for half in halves], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images."""
        return self.head(self.features(x))
