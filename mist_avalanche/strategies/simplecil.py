"""SimpleCIL: class means of frozen features (Zhou et al., arXiv 2303.07338)."""

from torch import Tensor, nn
from typing_extensions import Unpack

from ..models.backbone_with_head import BackboneWithHead
from ..models.heads import PrototypeHead
from .feature_based import FeatureCommon, FeatureStrategy
from .registry import register


@register("simplecil", title="SimpleCIL", paper="arXiv 2303.07338", stores="class means")
class SimpleCIL(FeatureStrategy):
    """Classifies an image by the cosines between its features and the class prototypes.

    The prototype of a class is the mean feature of its training images under the eval transform.
    Nothing is trained, except that a :class:`~mist_avalanche.MISTPlugin` may tune the backbone.

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D).
        common: see :class:`~mist_avalanche.strategies.feature_based.FeatureCommon`.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")  # tunes before the first experience
        >>> strategy = SimpleCIL(model=create_backbone(), plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    def __init__(self, *, model: nn.Module, **common: Unpack[FeatureCommon]) -> None:
        super().__init__(model=BackboneWithHead(model, PrototypeHead()), **common)

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, D) of labels (n,) to the class means."""
        self.head.update(features, labels)
