"""SSIAT: one adapter for all experiences; class means follow its drift (arXiv 2403.19979)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from ..models.adapters import AdaptedBackbone, Adapter
from ..models.alignment import ClassGaussians
from ..models.drift import weighted_shift
from ..models.linear_head import GrowingCosine
from ..models.vit import vit_size
from ..utils import check_integer, check_rate
from .gaussian_based import GaussianCommon, GaussianStrategy
from .registry import register


@register(
    "ssiat", title="SSIAT", paper="arXiv 2403.19979", needs="vit", stores="an adapter, Gaussians"
)
class SSIAT(GaussianStrategy):
    """Trains one adapter of a frozen ViT in all experiences, and shifts old class means with it.

    The loss is the cross-entropy of :func:`~.ssiat.margin_logits` over the experience's own
    classes. After training, each old mean is shifted like the features near it
    (:func:`~mist_avalanche.models.drift.weighted_shift`, under the eval transform), new classes get
    Gaussians, and the cosine classifier is aligned permanently. Its old rows decay in training, as
    in the authors' code. A MISTPlugin tunes the ViT without the adapter before each experience; the
    shift covers this too. Defaults are the authors' for ViT-B/16, CIFAR-100 and ImageNet-R.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D).
        bottleneck, dropout: see :class:`~mist_avalanche.models.adapters.Adapter`.
        first_epochs, train_epochs: epochs in the first and in each later experience.
        scale, margin: s and m of the logits in training.
        drift_sigma: σ of the shift.
        train_mb_size, common: see :class:`~.gaussian_based.GaussianCommon`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        bottleneck: int = 64,
        dropout: float = 0.1,
        first_epochs: int = 20,
        train_epochs: int = 10,
        scale: float = 20.0,
        margin: float = 0.0,
        drift_sigma: float = 4.0,
        train_mb_size: int = 48,
        **common: Unpack[GaussianCommon],
    ) -> None:
        self.epochs = check_integer("first_epochs", first_epochs, 1), train_epochs
        self.scale = check_rate("scale", scale, "(0, inf)")
        self.margin = check_rate("margin", margin, "[0, inf)")
        self.drift_sigma = check_rate("drift_sigma", drift_sigma, "(0, inf)")
        self._before: Tensor | None = None  # features before training, if there are old means
        head = GrowingCosine(vit_size(model)[0], std=0.02).to(next(model.parameters()))
        adapter = partial(Adapter, bottleneck=bottleneck, dropout=dropout)
        super().__init__(
            model=AdaptedBackbone(model, head, adapter, plain=False),
            gaussians=ClassGaussians(diagonal=1e-3),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )
        self.model.use(self.model.new_adapter())

    def check_model_and_optimizer(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Compute features before plugins, which may tune the ViT, and before training."""
        super().check_model_and_optimizer(num_workers=num_workers, **kwargs)
        if self.gaussians.classes:
            dataset = self.experience.dataset.eval()
            self._before = self.extract(dataset, self.model.features, num_workers).features

    def before_training(self) -> None:
        """Freeze the ViT, and make the adapter trainable."""
        self.backbone.requires_grad_(False)
        self.model.adapters.requires_grad_(True)
        self.train_epochs = self.epochs[bool(self.gaussians.classes)]

    def make_new_optimizer(self) -> torch.optim.SGD:
        """SGD with momentum 0.9 for the adapter and all rows of the classifier."""
        parameters = [*self.model.adapters.parameters(), *self.head.parameters()]
        return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)

    def logits(self, x: Tensor) -> Any:
        """Cosines (B, C) of images; in training, with scale and margin."""
        cosines, s, m = self.model(x), self.scale, self.margin
        return margin_logits(cosines, self.mb_y, s, m) if self.is_training else cosines

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """Shift old means, add Gaussians of the new classes, and align the classifier."""
        after, labels, _ = self.extract(dataset, self.model.features, num_workers)
        if self._before is not None:
            means = torch.stack([*self.gaussians.means.values()])
            means += weighted_shift(means.to(after), self._before, after, self.drift_sigma).cpu()
            self.gaussians.means = dict(zip(self.gaussians.means, means, strict=True))
            self._before = None
        self.gaussians.add(after, labels)
        rows = self.head.classifier
        self.align(rows.weight.detach(), rows.bias.detach(), scale=self.scale)


def margin_logits(cosines: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Logits (B, C): s · (cos - m) of the true classes, labels (B,), and s · cos of others."""
    return scale * (cosines - margin * F.one_hot(labels, cosines.shape[1]))
