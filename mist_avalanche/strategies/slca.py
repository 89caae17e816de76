"""SLCA: slow learner with classifier alignment (Zhang et al., arXiv 2303.05118)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from ..models.alignment import ClassGaussians
from ..models.backbone_with_head import BackboneWithHead
from ..models.experience_head import ExperienceLinear
from ..utils import check_rate, in_mode
from .gaussian_based import GaussianCommon, GaussianStrategy
from .registry import register


@register("slca", title="SLCA", paper="arXiv 2303.05118", stores="Gaussians of classes")
class SLCA(GaussianStrategy):
    """Trains the whole backbone slowly, and aligns a linear classifier with class Gaussians.

    Every experience trains the rows of its own classes at ``lr`` and the backbone at
    ``backbone_lr``, with the cross-entropy over these classes. Then a Gaussian is fitted to the
    features of each class under the eval transform. From the second experience on, all rows are
    trained on draws from all Gaussians, with normalised logits
    (:mod:`~mist_avalanche.models.alignment`). Evaluation uses the aligned rows; the next experience
    starts from the unaligned ones. The pretrained final norm is kept and trained; the authors
    replace it with a new one. A MISTPlugin tunes before each experience, and does not mask SLCA's
    own steps, which move every weight. Defaults are the authors' for ViT-B/16 and CIFAR-100.

    Args:
        model: the backbone, images to features (B, D).
        backbone_lr: learning rate of the backbone.
        milestones: epochs, counted from 1, after which both learning rates drop to a tenth; None
            for one after 90 % of the epochs; () for none.
        temperature: τ of the normalised logits.
        masks_steps: let a MISTPlugin mask the backbone's steps as well, so that only the selected
            entries move.
        train_mb_size, train_epochs, common: see :class:`~.gaussian_based.GaussianCommon`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        backbone_lr: float = 1e-4,
        milestones: Sequence[int] | None = None,
        temperature: float = 0.1,
        masks_steps: bool = False,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        **common: Unpack[GaussianCommon],
    ) -> None:
        self.backbone_lr = check_rate("backbone_lr", backbone_lr, "(0, inf)")
        if milestones is None:
            milestones = [round(0.9 * train_epochs)]  # 18 of 20, as published for CIFAR-100
        elif any(epoch >= train_epochs for epoch in milestones):
            raise ValueError(
                f"Expected `milestones` below the {train_epochs} epochs of an experience, got "
                f"{milestones}: the learning rate would never drop. Use () for a constant rate."
            )
        self.milestones = milestones
        self.temperature = check_rate("temperature", temperature, "(0, inf)")
        self.masks_steps = masks_steps
        super().__init__(
            model=BackboneWithHead(model, ExperienceLinear().to(next(model.parameters()))),
            gaussians=ClassGaussians(),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )

    @torch.no_grad()
    def before_experience(self) -> None:
        """Add rows for the classes, for the feature width of the backbone."""
        image = self.experience.dataset.eval()[0][0].unsqueeze(0).to(self.device)
        with in_mode(self.model, training=False):
            self.head.begin(self._classes, self.model.features(image).shape[1])

    def make_new_optimizer(self) -> torch.optim.SGD:
        """SGD with momentum 0.9 and a low learning rate for the backbone."""
        slow = {"params": self._tunable, "lr": self.backbone_lr}
        rows = {"params": [*self.head.part.parameters()], "lr": self.lr}
        return torch.optim.SGD([slow, rows], momentum=0.9, weight_decay=self.weight_decay)

    def schedule(self, epoch: int) -> float:
        """Factor on the learning rates: a tenth after each milestone."""
        return float(0.1 ** sum(epoch >= milestone for milestone in self.milestones))

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """Fit a Gaussian to each class, then align all rows."""
        self.head.end()
        found = self.extract(dataset, self.model.features, num_workers)
        self.gaussians.add(found.features, found.labels)
        rows = self.head.aligned_weight, self.head.aligned_bias
        self.align(*rows, temperature=self.temperature)
