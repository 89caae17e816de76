"""MOS: an adapter per experience, merged with earlier ones (Sun et al., arXiv 2412.09441)."""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from ..models.adapters import Adapter
from ..models.alignment import ClassGaussians
from ..models.linear_head import GrowingLinear
from ..models.subspaces import RetrievalHead, SubspaceViT
from ..models.vit import vit_size
from ..utils import check_integer, check_rate
from .base import Common
from .gaussian_based import GaussianStrategy
from .registry import register


@register("mos", title="MOS", paper="arXiv 2412.09441", needs="vit", stores="adapters, Gaussians")
class MOS(GaussianStrategy):
    """Trains an adapter of a frozen ViT for each experience, and retrieves one for each image.

    A new adapter starts as a copy of the last one. The loss is the cross-entropy of a linear
    classifier over the experience's own classes plus ρ times :func:`~.mos.separation_loss`. After
    each step, the adapter moves towards the mean of earlier ones (:func:`~.mos.merge`); in the
    authors' code, also after each forward pass of a block. Then new classes get means under the
    first adapter and Gaussians under their own adapter, the last that was trained on them, and the
    classifier is aligned permanently. An image passes through the ViT once per adapter, and then
    through a :class:`~mist_avalanche.models.subspaces.RetrievalHead`. A MISTPlugin tunes the ViT
    before the first experience only. Defaults are the authors' for ViT-B/16 and CIFAR-100.

    Args:
        model: timm's VisionTransformer, images (B, C, H, W) to features (B, D).
        bottleneck, dropout: see :class:`~mist_avalanche.models.adapters.Adapter`.
        merge: α, the weight of the mean.
        separation: ρ.
        rounds: number of rounds of adapter retrieval.
        lr: learning rate of the adapter; the classifier's is a tenth of it.
        samples_per_class: draws per class of the alignment; None for five batches.
        weight_decay, align_lr, align_epochs: see :class:`~.gaussian_based.GaussianCommon`.
        train_mb_size, train_epochs, common: see :class:`~.base.PretrainedStrategy`.
    """

    tune_on = "first"
    follows_tuning = False  # adapters and statistics belong to one ViT

    _features: Any = None  # (B, D) of the mini-batch

    def __init__(
        self,
        *,
        model: nn.Module,
        bottleneck: int = 16,
        dropout: float = 0.1,
        merge: float = 0.1,
        separation: float = 0.1,
        rounds: int = 4,
        lr: float = 0.03,
        weight_decay: float = 5e-4,
        align_lr: float = 0.005,
        align_epochs: int = 30,
        samples_per_class: int | None = None,
        train_mb_size: int = 48,
        train_epochs: int = 20,
        **common: Unpack[Common],
    ) -> None:
        self.merge = check_rate("merge", merge, "[0, 1]")
        self.separation = check_rate("separation", separation, "[0, inf)")
        linear = GrowingLinear(vit_size(model)[0], std=0.02).to(next(model.parameters()))
        head = RetrievalHead(linear, check_integer("rounds", rounds, 1))
        adapter = partial(Adapter, bottleneck=bottleneck, dropout=dropout)
        super().__init__(
            model=SubspaceViT(model, head, adapter, plain=False),
            gaussians=ClassGaussians(oldest=1.0),
            lr=lr,
            weight_decay=weight_decay,
            align_lr=align_lr,
            align_epochs=align_epochs,
            samples_per_class=5 * train_mb_size if samples_per_class is None else samples_per_class,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )

    def before_training(self) -> None:
        """Copy the last adapter of the frozen ViT, or create the first one."""
        self.backbone.requires_grad_(False)
        earlier, means = self.model.adapters, self.gaussians.means.values()
        start = deepcopy(earlier[-1]) if earlier else self.model.new_adapter()
        self.adapter = start.requires_grad_(True).train()
        self._means = [mean.to(next(start.parameters())) for mean in means]

    def make_new_optimizer(self) -> torch.optim.SGD:
        """SGD with momentum 0.9 for the adapter and all rows of the classifier."""
        adapter = {"params": [*self.adapter.parameters()], "lr": self.lr}
        rows = {"params": [*self.head.linear.parameters()], "lr": 0.1 * self.lr}
        return torch.optim.SGD([adapter, rows], momentum=0.9, weight_decay=self.weight_decay)

    def logits(self, x: Tensor) -> Any:
        """Logits (B, C) of images; in training, by the linear classifier with the new adapter."""
        if not self.is_training:
            return self.model(x)
        self._features = self.model.run_backbone(partial(self.adapter, self.backbone), x)
        return self.head.linear(self._features)

    def extra_loss(self) -> Any:
        """ρ times the separation loss of the mini-batch and the means of earlier classes."""
        rows = torch.stack([*self._means, *self._features])
        return self.separation * separation_loss(rows)

    def optimizer_step(self, **kwargs: Any) -> None:
        """Take a step, then merge."""
        super().optimizer_step(**kwargs)
        merge(self.adapter, self.model.adapters, self.merge)

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """Add Gaussians, align the classifier, and add means under the first adapter."""
        self._features = None
        self.model.use(self.adapter)
        features, labels, _ = self.extract(dataset, self.model.features, num_workers)  # (n, S, D)
        self.gaussians.add(features[:, -1], labels)
        rows = self.head.linear.classifier
        self.align(rows.weight.detach(), rows.bias.detach(), temperature=None)
        self.head.add(features, labels)


def separation_loss(rows: Tensor) -> Tensor:
    """Cross-entropy of R Rᵀ / 0.8 with the index of each row as its label; R are rows (n, D)."""
    return F.cross_entropy(rows @ rows.T / 0.8, torch.arange(len(rows), device=rows.device))


@torch.no_grad()
def merge(module: nn.Module, earlier: nn.ModuleList, rate: float) -> None:
    """A ← (1 - α) A + α · mean of earlier modules of the same kind, in place, if there are any."""
    if earlier:
        for own, *theirs in zip(*(m.parameters() for m in (module, *earlier)), strict=True):
            own.lerp_(torch.stack(theirs).mean(0), rate)
