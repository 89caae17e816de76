"""CoFiMA: SLCA with a backbone averaged by Fisher information (Marouf et al., arXiv 2312.08977)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import check_rate
from .registry import register
from .slca import SLCA


@register("cofima", title="CoFiMA", paper="arXiv 2312.08977", stores="Gaussians of classes, Fisher")
class CoFiMA(SLCA):
    """SLCA with a backbone that is averaged with its previous state after each later experience.

    F_t is the squared gradient of the cross-entropy over all classes so far, averaged over the
    training batches of experience t after training and clipped at ``fisher_clip``. The new backbone
    is the :func:`~.cofima.fisher_average` of its states before (F_{t-1}) and after (F_t) the
    experience; the former is the state before a MISTPlugin tunes. Gaussians, alignment and the next
    experience start from the average. Rows of the classifier are not averaged.

    Args:
        model: the backbone, images to features (B, D).
        new_weight: λ, the weight of the state after the experience.
        fisher: False gives every entry the weight λ, which is CoMA.
        fisher_clip: upper bound on the entries of F_t.
        slca: see :class:`~.slca.SLCA`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        new_weight: float = 0.5,
        fisher: bool = True,
        fisher_clip: float = 1e-4,
        **slca: Any,
    ) -> None:
        self.new_weight = check_rate("new_weight", new_weight, "[0, 1]")
        self.fisher, self.fisher_clip = fisher, check_rate("fisher_clip", fisher_clip, "(0, inf)")
        self._fisher: dict[str, Tensor] = {}  # F of the last experience, by parameter
        self._before: dict[str, Tensor] = {}  # weights of the backbone before the experience
        super().__init__(model=model, **slca)

    def state_dict(self) -> dict[str, Any]:
        """State of SLCA, and F of the last experience."""
        return {**super().state_dict(), "fisher": {**self._fisher}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict` of a strategy that was created with the same arguments."""
        super().load_state_dict(state)
        self._fisher = {name: f.to(self.device) for name, f in state["fisher"].items()}

    def before_experience(self) -> None:
        """Store the backbone's weights."""
        super().before_experience()
        trained = ((name, p) for name, p in self.backbone.named_parameters() if p.requires_grad)
        self._before = {name: p.detach().clone() for name, p in trained}

    def after_experience(self, dataset: Any, num_workers: int) -> None:
        """Average the backbone, then continue as SLCA does."""
        self.head.end()
        weights = {name: self.backbone.get_parameter(name) for name in self._before}
        last, self._fisher = self._fisher, self._new_fisher(weights) if self.fisher else {}
        if self.gaussians.n_experiences:  # the pretrained weights are not averaged
            fishers = (last, self._fisher) if self.fisher else None
            average = fisher_average(self._before, weights, self.new_weight, fishers)
            self.backbone.load_state_dict(average, strict=False)
        self._before = {}
        super().after_experience(dataset, num_workers)

    def _new_fisher(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """F by name, in one pass over the training images in training mode."""
        totals, n = {name: torch.zeros_like(p) for name, p in weights.items()}, 0
        for n, (x, y, *_) in enumerate(self.dataloader, 1):  # noqa: B007
            loss = F.cross_entropy(self.model(x.to(self.device)), y.to(self.device))
            found = torch.autograd.grad(loss, [*weights.values()], materialize_grads=True)
            for total, gradient in zip(totals.values(), found, strict=True):
                total += gradient.square()
        return {name: (total / n).clamp_(max=self.fisher_clip) for name, total in totals.items()}


def fisher_average(
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    new_weight: float,
    fishers: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """θ_old + w (θ_new - θ_old), with w = λ F_new / ((1 - λ) F_old + λ F_new), by name (pure).

    w is in [0, 1]. Entries that are equal in both stay bit-identical.

    Args:
        old: tensors by name.
        new: tensors of the same shapes; those missing from ``old`` are returned unchanged.
        new_weight: λ in [0, 1].
        fishers: F_old and F_new for all of ``old``, or KeyError; None, or 0 in both, gives w = λ.
    """
    average = {name: tensor.detach() for name, tensor in new.items()}
    for name, tensor in old.items():
        weight = torch.full_like(tensor, new_weight)
        if fishers is not None:
            older, newer = (1 - new_weight) * fishers[0][name], new_weight * fishers[1][name]
            weight = torch.where(older + newer > 0, newer / (older + newer), weight)
        average[name] = tensor.lerp(average[name], weight)
    return average
