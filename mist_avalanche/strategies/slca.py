"""SLCA: slow learner with classifier alignment (Zhang et al., arXiv 2303.05118)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn

from .._support.checks import check_integer, check_rate
from .._support.randomness import isolated_rng
from ..models.alignment import ClassGaussians, align
from ..models.attached import without_classifier
from ..models.experience_head import ExperienceLinear
from ..models.features import in_mode
from ..models.forward import Forward
from ..models.heads import BackboneWithHead
from ._own_training import MOMENTUM, OwnTraining

GAMMA = 0.1  # of the rates at a milestone
MILESTONE = 0.9  # of the epochs, as published for CIFAR-100: 18 of 20


class SLCA(OwnTraining):
    """Trains the whole backbone slowly, and aligns a linear classifier with class Gaussians.

    Every experience trains the rows of its own classes at ``lr`` and the backbone at
    ``backbone_lr``, by cross-entropy over its own classes. Then each of its classes gets a Gaussian
    of its features under the eval transform. From the second experience on, all rows train on draws
    from all Gaussians, with normalised logits (:func:`~mist_avalanche.models.alignment.align`).
    Evaluation uses the aligned rows; the next experience goes on from those before. The pretrained
    final norm stays and trains along; the authors replace it by a new one.

    A class that comes back trains its row again, belongs to the newest experience that has had it,
    and has the Gaussian of all its features. A :class:`~mist_avalanche.MISTPlugin` tunes before
    each experience, and leaves SLCA's own steps, which move every weight, without its mask. No
    optimizer, no number of classes or experiences, no task labels. Defaults are the authors' for
    ViT-B/16 and CIFAR-100.

    Args:
        model: images to features (B, D). A classifier that it still has is taken off, with a
            warning.
        lr: of the classifier.
        backbone_lr: of the backbone.
        milestones: epochs, from 1, after which both rates are a tenth; None for one after 90 % of
            the epochs; () for none.
        weight_decay: of everything that trains, and in the alignment.
        align_epochs: passes of the alignment; 0 for no alignment.
        samples_per_class: draws a class in each of them.
        temperature: τ of the normalised logits in the alignment; None for plain logits.
        masks_steps: whether a MISTPlugin masks the backbone's steps as well. SLCA is a sparse
            method then.
        criterion: None for cross-entropy.
        train_mb_size: images in a batch.
        train_epochs: passes over an experience.
        eval_mb_size: images in a batch of evaluation; changes no result.
        device: of the model. Gaussians stay on the CPU, 4 D² bytes a class.
        plugins: Avalanche plugins.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.
        precision: of the backbone: ``"32"`` or ``"bf16"`` (autocast; classifier, Gaussians and
            loss in float32).

    Attributes:
        gaussians: of the classes so far.

    Raises:
        ValueError: an argument out of its range, or a multi-task model.
        FloatingPointError: the backbone gives NaN or Inf.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")
        >>> strategy = SLCA(model=create_backbone(), train_epochs=5, plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    tune_on = "every"  # the backbone moves in every experience anyway

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
        temperature: float | None = 0.1,
        masks_steps: bool = False,
        criterion: nn.Module | None = None,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        precision: Literal["32", "bf16"] = "32",
        **kwargs: Any,
    ) -> None:
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.backbone_lr = check_rate("backbone_lr", backbone_lr, "(0, inf)")
        self.milestones = _milestones(milestones, train_epochs)
        self.weight_decay = check_rate("weight_decay", weight_decay, "[0, inf)")
        self.align_epochs = check_integer("align_epochs", align_epochs, 0)
        self.samples_per_class = check_integer("samples_per_class", samples_per_class, 1)
        self.temperature = (
            None if temperature is None else check_rate("temperature", temperature, "(0, inf)")
        )
        self.masks_steps = masks_steps
        without_classifier(model, "SLCA")
        self.gaussians = ClassGaussians()
        self.run_backbone = Forward(precision)
        super().__init__(
            model=BackboneWithHead(model, ExperienceLinear().to(next(model.parameters()))),
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **kwargs,
        )

    def state_dict(self) -> dict[str, Any]:
        """Classifier and Gaussians; the model's own state has the backbone."""
        return {
            "head": self.head.state_dict(),
            "gaussians": self.gaussians.state_dict(),
            "part": self.part_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy with the same arguments."""
        self.head.load_state_dict(state["head"])
        self.gaussians.load_state_dict(state["gaussians"])
        self.load_part_state(state.get("part"))
        self.head.go_on(self._classes)

    def begin_experience(self, classes: list[int]) -> None:
        """Rows for the classes; the others go back to where they were before the alignment."""
        self.head.recall()
        self.head.widen(self._width())
        self.model = self.model_adaptation()
        self.head.begin(classes)

    @torch.no_grad()
    def _width(self) -> int:
        """D, seen from one image of the experience."""
        with isolated_rng(0, self.device), in_mode(self.model, training=False):
            x = self.experience.dataset.eval()[0][0].unsqueeze(0).to(self.device)
            return self._features(x).shape[1]

    def _features(self, x: Tensor) -> Tensor:
        """(B, D) of images."""
        return self.run_backbone(self.backbone, x)

    def training_logits(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images."""
        logits: Tensor = self.head(self._features(x))
        return logits

    evaluation_logits = training_logits

    def trained(self) -> list[dict[str, Any]]:
        """The backbone, slowly, and the rows."""
        return [
            {"params": self._tunable, "lr": self.backbone_lr},
            {"params": [*self.head.part.parameters()], "lr": self.lr},
        ]

    def rate(self, epoch: int) -> float:
        """A tenth after each milestone."""
        return float(GAMMA ** sum(epoch >= milestone for milestone in self.milestones))

    def end_experience(self, dataset: Any, num_workers: int) -> None:
        """A Gaussian for each class; then all rows are aligned."""
        head = self.head
        head.end()
        self.gaussians.add(*self.features_of([dataset], num_workers, self._features)[:2])
        if self.gaussians.n_experiences < 2 or not self.align_epochs:
            return
        head.remember()
        epochs = align(
            head.classifier,
            self.gaussians,
            epochs=self.align_epochs,
            samples=self.samples_per_class,
            lr=self.lr,
            momentum=MOMENTUM,
            weight_decay=self.weight_decay,
            temperature=self.temperature,
        )
        for epoch, losses in enumerate(epochs):
            loss = MetricValue(self, "SLCA/alignment_loss", float(losses.mean()), epoch)
            self.evaluator.publish_metric_value(loss)


def _milestones(milestones: Sequence[int] | None, epochs: int) -> tuple[int, ...]:
    """Epochs after which the rates drop, each within the training."""
    if milestones is None:
        return (max(1, round(MILESTONE * epochs)),)
    found = tuple(check_integer("milestones", epoch, 1) for epoch in milestones)
    if any(epoch >= epochs for epoch in found):
        raise ValueError(
            f"Expected `milestones` below the {epochs} epochs of an experience, got {list(found)}: "
            "the learning rate would never drop. Lower them, or give () for no drop."
        )
    return found
