"""APER: adapt to the first experience, and merge with the plain backbone (arXiv 2303.07338)."""

from functools import partial

from torch import Tensor, nn
from typing_extensions import Unpack

from ..models.adapters import AdaptedBackbone
from ..models.heads import PrototypeHead
from ..utils import check_integer
from .base import Common
from .feature_based import FeatureStrategy
from .first_session import AdapterName, new_adapter, session_settings
from .registry import register


@register(
    "aper", title="APER", paper="arXiv 2303.07338", needs="vit", stores="an adapter, class means"
)
class APER(FeatureStrategy):
    """Class means of [plain, adapted] features, adapted to the first experience only.

    In the first experience, an adapter is trained with a cosine classifier that is then discarded
    (:func:`~mist_avalanche.strategies.first_session.adapt`). Afterwards, nothing is trained. An
    image has the features f(x) = [φ(x), φ_adapted(x)] (2 D,). The prototype of a class is the mean
    of f over its training images under the eval transform. Logits are the cosines of f(x) and the
    prototypes, over all 2 D entries. A MISTPlugin tunes the backbone, and so both halves, before
    the adapter is trained, and only before the first experience.

    Omitted settings of the first session default to those of the authors for ViT-B/16.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D); with
            ``adapter="finetune"`` any backbone.
        adapter: ``"adapter"`` (AdaptFormer), ``"ssf"`` (scales and shifts), ``"vpt_deep"`` or
            ``"vpt_shallow"`` (prompt tokens), or ``"finetune"`` (a copy of the whole backbone).
        lr: learning rate: 0.01; 0.05 for ``"vpt_deep"``.
        train_epochs: passes over the experience: 20; 5 for ``"vpt_deep"`` and ``"finetune"``.
        train_mb_size: images per batch, also when features are computed: 48; 16 for
            ``"vpt_deep"``, 128 for ``"finetune"``.
        weight_decay: weight decay of everything that is trained: 5e-4.
        min_lr: the learning rate that the cosine schedule would reach after the last epoch: 0.
        bottleneck: width of ``"adapter"``: 64.
        dropout: dropout rate in ``"adapter"`` during training: 0.1.
        n_prompts: number of tokens of ``"vpt_deep"`` and ``"vpt_shallow"``: 5.
        seed: seed of all randomness in the first session.
        common: see :class:`~.base.Common`.
    """

    tune_on = "first"
    follows_tuning = False  # the adapter and the class means belong to one backbone
    masks_steps = False  # the first session does not change the backbone

    def __init__(
        self,
        *,
        model: nn.Module,
        adapter: AdapterName = "adapter",
        lr: float | None = None,
        train_epochs: int | None = None,
        train_mb_size: int | None = None,
        weight_decay: float | None = None,
        min_lr: float | None = None,
        bottleneck: int | None = None,
        dropout: float | None = None,
        n_prompts: int | None = None,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        self.seed = check_integer("seed", seed, 0)
        self.session = session_settings(
            adapter,
            lr=lr,
            train_epochs=train_epochs,
            train_mb_size=train_mb_size,
            weight_decay=weight_decay,
            min_lr=min_lr,
            bottleneck=bottleneck,
            dropout=dropout,
            n_prompts=n_prompts,
        )
        make = partial(new_adapter, **self.session)
        super().__init__(
            model=AdaptedBackbone(model, PrototypeHead(), make, plain=True),
            train_mb_size=self.session["train_mb_size"],
            **common,
        )

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, 2 D) of labels (n,) to the class means."""
        self.head.update(features, labels)
