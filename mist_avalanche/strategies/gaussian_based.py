"""Base class of SLCA, SSIAT and MOS: a Gaussian per class, and a classifier aligned with them."""

from collections.abc import Mapping
from typing import Any

from avalanche.evaluation.metric_results import MetricValue
from torch import Tensor

from ..models.alignment import ClassGaussians, align
from ..utils import check_integer, check_rate
from .base import Common
from .gradient_based import GradientStrategy, cosine_schedule


class GaussianCommon(Common, total=False):
    """Keyword arguments in addition to those of :class:`~.base.PretrainedStrategy`.

    Args:
        lr: learning rate of the classifier and of an adapter.
        weight_decay: weight decay of everything that is trained, also in the alignment.
        align_lr: learning rate of the alignment; None for ``lr``.
        align_epochs: epochs of the alignment; 0 for no alignment.
        samples_per_class: draws per class and epoch of the alignment.
    """

    lr: float
    weight_decay: float
    align_lr: float | None
    align_epochs: int
    samples_per_class: int


class GaussianStrategy(GradientStrategy):
    """A strategy with :class:`GaussianCommon` and a Gaussian per class (4 D² bytes, on the CPU)."""

    def __init__(
        self,
        *,
        gaussians: ClassGaussians,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        align_lr: float | None = None,
        align_epochs: int = 5,
        samples_per_class: int = 256,
        **common: Any,
    ) -> None:
        self.gaussians, self.lr = gaussians, check_rate("lr", lr, "(0, inf)")
        self.weight_decay = check_rate("weight_decay", weight_decay, "[0, inf)")
        self.align_lr = check_rate("align_lr", lr if align_lr is None else align_lr, "(0, inf)")
        self.align_epochs = check_integer("align_epochs", align_epochs, 0)
        self.samples_per_class = check_integer("samples_per_class", samples_per_class, 1)
        super().__init__(**common)

    def schedule(self, epoch: int) -> float:
        """Cosine."""
        return cosine_schedule(epoch, self.train_epochs)

    def state_dict(self) -> dict[str, Any]:
        """State of the model and the Gaussians."""
        return {**super().state_dict(), "gaussians": self.gaussians.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict` of a strategy that was created with the same arguments."""
        super().load_state_dict(state)
        self.gaussians.load_state_dict(state["gaussians"])

    def align(self, weight: Tensor, bias: Tensor, **logits: Any) -> None:
        """From the second experience on, align weights (C, D) and biases (C,) in place; log it."""
        if self.gaussians.n_experiences < 2:
            return
        how = {"lr": self.align_lr, "weight_decay": self.weight_decay, **logits}
        how |= {"epochs": self.align_epochs, "samples": self.samples_per_class}
        for epoch, losses in enumerate(align(weight, bias, self.gaussians, **how)):
            name, loss = f"{type(self).__name__}/alignment_loss", float(losses.mean())
            self.evaluator.publish_metric_value(MetricValue(self, name, loss, epoch))
