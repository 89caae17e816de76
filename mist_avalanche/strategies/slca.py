"""SLCA: slow learner with classifier alignment (Zhang et al., arXiv 2303.05118)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from avalanche.evaluation.metric_results import MetricValue
from torch import nn
from typing_extensions import Unpack

from ..models.alignment import ClassGaussians, align
from ..models.backbone_with_head import BackboneWithHead
from ..models.experience_head import ExperienceLinear
from ..utils import check_integer, check_rate, in_mode
from .base import Common
from .gradient_based import GradientStrategy
from .registry import register


@register("slca", title="SLCA", paper="arXiv 2303.05118", stores="Gaussians of classes")
class SLCA(GradientStrategy):
    """Trains the whole backbone slowly, and aligns a linear classifier with class Gaussians.

    Every experience trains the rows of its own classes at ``lr`` and the backbone at
    ``backbone_lr``, with the cross-entropy over these classes. Then each of them gets a Gaussian of
    its features under the eval transform. From the second experience on, all rows are trained on
    draws from all Gaussians, with normalised logits (:mod:`~mist_avalanche.models.alignment`).
    Evaluation uses the aligned rows; the next experience goes on from those before. The pretrained
    final norm stays and is trained along, where the authors replace it by a new one.

    A MISTPlugin tunes before each experience, and does not mask SLCA's own steps, which move every
    weight. Defaults are those of the authors for ViT-B/16 and CIFAR-100.

    Args:
        model: the backbone, images to features (B, D).
        lr: of the classifier.
        backbone_lr: of the backbone.
        milestones: epochs, counted from 1, after which both rates fall to a tenth; None for one
            after 90 % of the epochs; () for none.
        weight_decay: of everything that is trained, also in the alignment.
        align_epochs: passes of the alignment; 0 for no alignment.
        samples_per_class: draws per class in each of them.
        temperature: τ of the normalised logits.
        masks_steps: let a MISTPlugin mask the backbone's steps as well, so that only what it
            selects moves.
        train_mb_size, train_epochs, common: see :class:`~.base.PretrainedStrategy`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float = 0.01,
        backbone_lr: float = 1e-4,
        milestones: Sequence[int] | None = None,
        weight_decay: float = 5e-4,
        align_epochs: int = 5,
        samples_per_class: int = 256,
        temperature: float = 0.1,
        masks_steps: bool = False,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        **common: Unpack[Common],
    ) -> None:
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.backbone_lr = check_rate("backbone_lr", backbone_lr, "(0, inf)")
        if milestones is None:
            milestones = [round(0.9 * train_epochs)]  # 18 of 20, as published for CIFAR-100
        elif any(epoch >= train_epochs for epoch in milestones):
            raise ValueError(
                f"Expected `milestones` below the {train_epochs} epochs of an experience, got "
                f"{milestones}: the learning rate would never fall. Give () to keep it."
            )
        self.milestones = milestones
        self.weight_decay = check_rate("weight_decay", weight_decay, "[0, inf)")
        self.align_epochs = check_integer("align_epochs", align_epochs, 0)
        self.samples_per_class = check_integer("samples_per_class", samples_per_class, 1)
        self.temperature = check_rate("temperature", temperature, "(0, inf)")
        self.masks_steps = masks_steps
        self.gaussians = ClassGaussians()  # on the CPU, 4 D² bytes per class
        super().__init__(
            model=BackboneWithHead(model, ExperienceLinear().to(next(model.parameters()))),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            **common,
        )

    def state_dict(self) -> dict[str, Any]:
        """The model, and the Gaussians."""
        return {**super().state_dict(), "gaussians": self.gaussians.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy that was made with the same arguments."""
        super().load_state_dict(state)
        self.gaussians.load_state_dict(state["gaussians"])

    @torch.no_grad()
    def before_experience(self) -> None:
        """Rows for the classes, as wide as the features of an image."""
        image = self.experience.dataset.eval()[0][0].unsqueeze(0).to(self.device)
        with in_mode(self.model, training=False):
            self.head.begin(self._classes, self.model.features(image).shape[1])

    def make_new_optimizer(self) -> torch.optim.SGD:
        """SGD with momentum 0.9, slow for the backbone."""
        slow = {"params": self._tunable, "lr": self.backbone_lr}
        rows = {"params": [*self.head.part.parameters()], "lr": self.lr}
        return torch.optim.SGD([slow, rows], momentum=0.9, weight_decay=self.weight_decay)

    def schedule(self, epoch: int) -> float:
        """A tenth after each milestone."""
        return float(0.1 ** sum(epoch >= milestone for milestone in self.milestones))

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """A Gaussian for each class; then all rows are aligned."""
        self.head.end()
        found = self.extract(dataset, self.model.features, num_workers)
        self.gaussians.add(found.features, found.labels)
        if self.gaussians.n_experiences < 2:
            return
        epochs = align(
            self.head.aligned_weight,
            self.head.aligned_bias,
            self.gaussians,
            epochs=self.align_epochs,
            samples=self.samples_per_class,
            lr=self.lr,
            weight_decay=self.weight_decay,
            temperature=self.temperature,
        )
        for epoch, losses in enumerate(epochs):
            loss = MetricValue(self, "SLCA/alignment_loss", float(losses.mean()), epoch)
            self.evaluator.publish_metric_value(loss)
