"""RanPAC: ridge regression on random features (McDonnell et al., arXiv 2307.02251)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ..models.backbone_with_head import BackboneWithHead
from ..models.heads import RidgeHead
from ..models.memory import FeatureMemory
from ..utils import check_integer, derive_seed
from .feature_based import FeatureCommon, FeatureStrategy
from .registry import register


@register("ranpac", title="RanPAC", paper="arXiv 2307.02251", stores="G and Q of random features")
class RanPAC(FeatureStrategy):
    """Classifies an image by ridge regression on a random expansion of its features.

    h = relu(f W) for features f (D,), with W (D, M) fixed and standard normal. G = Σ h hᵀ and
    Q = Σ h yᵀ over all training images, under the eval transform; logits are h (G + λI)⁻¹ Q. λ is
    the candidate among 10⁻⁸ … 10⁸ with the least squared error on a random 20 % of the current
    experience or, with few images, a share of the mean |h|² (:mod:`~mist_avalanche.models.ridge`).

    Args:
        model: the backbone, images (B, C, H, W) to features (B, D).
        n_random_features: M; 0 for h = f (decorrelation only).
        first_session: kind of adapter to train on the first experience, so that f are adapted
            features: ``"adapter"``, ``"ssf"``, ``"vpt_deep"``, ``"vpt_shallow"`` or ``"finetune"``,
            see :class:`~mist_avalanche.strategies.APER`. A MISTPlugin tunes before the adapter is
            trained, by default before the first experience only. None for no adapter.
        first_session_args: settings of the first session, such as ``lr`` and ``train_epochs``, see
            :class:`~mist_avalanche.strategies.APER`.
        seed: seed of W, of the shuffling and of the first session.
        common: see :class:`~mist_avalanche.strategies.feature_based.FeatureCommon`. With
            ``drift_compensation``, the features of all images are kept in float16 (2 D bytes each,
            no pixels) and moved, and G and Q are recomputed from them. G takes 8 M² bytes, and as
            many while it is factorised (800 MB each at M = 10000).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        n_random_features: int = 10000,
        first_session: Literal["adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune"]
        | None = None,
        first_session_args: Mapping[str, Any] | None = None,
        seed: int = 0,
        **common: Unpack[FeatureCommon],
    ) -> None:
        self.seed = check_integer("seed", seed, 0)
        drift_compensation = common.get("drift_compensation", False)
        head = RidgeHead(
            check_integer("n_random_features", n_random_features, 0),
            self.seed,
            memory=FeatureMemory() if drift_compensation else None,
        )
        with_head = BackboneWithHead(model, head)
        if first_session is not None:
            from ..models.adapters import AdaptedBackbone
            from .first_session import new_adapter, session_settings

            if not drift_compensation:
                self.tune_on = "first"  # the adapter depends on the backbone it was trained with
            self.masks_steps = False  # "finetune" trains the whole backbone
            self.session = session_settings(first_session, **(first_session_args or {}))
            make = partial(new_adapter, **self.session)
            with_head = AdaptedBackbone(model, head, make, plain=False)
        super().__init__(model=with_head, **common)

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, D) of labels (n,) to G and Q, choose λ, and solve."""
        self.head.update(features, labels)
        order = derive_seed(self.seed, int(self.head.counts.sum()))
        self.head.choose_ridge(features, labels, torch.Generator().manual_seed(order))
        self.head.solve()
