"""FeCAM: one Mahalanobis distance per class (Goswami et al., arXiv 2309.14062)."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ..models.backbone_with_head import BackboneWithHead
from ..models.mahalanobis_head import MahalanobisHead
from ..utils import check_rate
from .base import Common
from .feature_based import FeatureStrategy
from .registry import register


@register("fecam", title="FeCAM", paper="arXiv 2309.14062", stores="class means, covariances")
class FeCAM(FeatureStrategy):
    """Classifies an image by its distance to each class mean, in the metric of that class.

    f denotes the features of an image, divided by their norm; μ and Σ are the mean and covariance
    of f over the training images of a class under the eval transform. With m_d the mean of the
    diagonal of Σ, and m_o the mean of its non-zero off-diagonal entries,

        Σ' = Σ + γ₁ m_d I + γ₂ m_o (1 - I),    N = Σ' / (s sᵀ),    s² the diagonal of Σ',

    with 1 the matrix of ones. Logits are -(f - μ)ᵀ N⁻¹ (f - μ); N is I for a class with one image.
    Nothing is trained, and a MISTPlugin tunes the backbone before the first experience only. The
    paper's power transform is omitted: it needs non-negative features, which a ViT does not have.

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D). Each class takes 8 D² bytes.
        diagonal_shrinkage: γ₁ > 0; default: the authors' for CIFAR-100 (ImageNet-R: γ₁ = γ₂ = 10).
        off_diagonal_shrinkage: γ₂; a value that makes Σ' an invalid metric raises a ValueError.
        train_mb_size, joined, compile, common: see :class:`~.feature_based.FeatureCommon`.
    """

    tune_on = "first"
    follows_tuning = False  # no affine map moves covariances of normalised features

    def __init__(
        self,
        *,
        model: nn.Module,
        diagonal_shrinkage: float = 1.0,
        off_diagonal_shrinkage: float = 0.0,
        train_mb_size: int = 64,
        joined: bool = False,
        compile: bool = False,
        **common: Unpack[Common],
    ) -> None:
        head = MahalanobisHead(
            check_rate("diagonal_shrinkage", diagonal_shrinkage, "(0, inf)"),
            check_rate("off_diagonal_shrinkage", off_diagonal_shrinkage, "[0, inf)"),
            torch.promote_types(next(model.parameters()).dtype, torch.float32),
        )
        model = BackboneWithHead(model, head)
        super().__init__(
            model=model, train_mb_size=train_mb_size, joined=joined, compile=compile, **common
        )

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, D) of labels (n,) to the means and covariances."""
        self.head.update(features, labels)
