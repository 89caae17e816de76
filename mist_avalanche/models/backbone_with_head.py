"""A backbone and a head as one model, from images to logits."""

from torch import Tensor, nn

from .forward import Forward

UNSEEN = -1000.0  # the logit of a class without data, as in Avalanche's IncrementalClassifier


class BackboneWithHead(nn.Module):
    """A backbone, images (B, ...) to features (B, D), and a head, features to logits (B, C).

    Attributes:
        run_backbone: how the backbone is run (precision, compiled or not).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.run_backbone = Forward()

    def features(self, x: Tensor) -> Tensor:
        """Features (B, D) of images, which the head takes."""
        return self.run_backbone(self.backbone, x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images."""
        return self.head(self.features(x))
