"""MIST's objective: supervised InfoNCE on projected backbone features of two views of a batch.

The loss is the mutual information between two views, and between features and labels, from "Mutual
Information-guided Sparse Tuning" (arXiv 2505.19943). It builds on the supervised contrastive bound
of Khosla et al. (arXiv 2004.11362).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import derive_seed, isolated_rng

PROJECTION_WIDTH = 128
TEMPERATURE = 0.07  # τ
_EPS = 1e-8


def normalize_rows(z: Tensor) -> Tensor:
    """Rows of z (N, P), each divided by its norm + 1e-8."""
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z / (length + _EPS)


def supervised_info_nce(z: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    r"""The MI objective of MIST on a batch of two views.

    With S = z zᵀ minus each row's maximum, E = exp(S / τ) without its diagonal and
    ℓ_ij = -log(E_ij / (Σ_k E_ik + 1e-8) + 1e-8), the loss is

        mean_r ℓ(r, other view of r) + 2 mean_r Σ_j w_rj ℓ_rj,   w_rj = [y_r = y_j] / n_r,

    where n_r counts the rows with r's label, r itself included.

    Args:
        z: (2B, P) projected features, each row of unit norm; rows 0..B-1 are the first view,
            rows B..2B-1 the second view of the same images.
        labels: (B,) class of each image.
        temperature: τ > 0.

    Returns:
        A scalar in z's dtype.

    Raises:
        ValueError: the shapes do not match.
    """
    if z.ndim != 2 or labels.ndim != 1 or len(z) != 2 * len(labels):
        raise ValueError(
            f"Expected `z` of shape (2B, P) and `labels` of shape (B,), two views of each image; "
            f"got {tuple(z.shape)} and {tuple(labels.shape)}."
        )
    rows = len(z)
    similarity = z @ z.T  # (2B, 2B)
    similarity = similarity - similarity.amax(dim=1, keepdim=True)
    itself = torch.eye(rows, dtype=torch.bool, device=z.device)
    e = (similarity / temperature).exp().masked_fill(itself, 0)
    nll = -(e / (e.sum(dim=1, keepdim=True) + _EPS) + _EPS).log()  # (2B, 2B)

    other_view = torch.arange(rows, device=z.device).roll(rows // 2)
    between_views = nll.gather(1, other_view.unsqueeze(1)).mean()

    y = labels.repeat(2)
    same = (y.unsqueeze(1) == y).to(z.dtype)
    with_labels = (nll * same / same.sum(dim=1, keepdim=True)).sum(dim=1).mean()
    return between_views + 2 * with_labels


class SupervisedInfoNCE(nn.Module):
    """:func:`supervised_info_nce` as a module, which normalises the projections."""

    def __init__(self, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` > 0, got {temperature}.")
        self.temperature = temperature

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Loss of z (2B, P), in float32 or better, and labels (B,)."""
        if z.dtype in (torch.float16, torch.bfloat16):
            z = z.float()
        return supervised_info_nce(normalize_rows(z), labels, self.temperature)


class Objective(ABC):
    """A head on the features, and the loss of its outputs.

    Args:
        seed: seed of the head's initial weights.

    Attributes:
        head: ``nn.Linear``, trained with the backbone; created by :meth:`prepare`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.head: Any = None

    @abstractmethod
    def prepare(self, features: Tensor, classes: list[int]) -> nn.Linear:
        """The head for an experience, from features (1, D) of one image and its classes."""

    @abstractmethod
    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of the features (2B, D) of two views, and labels (B,)."""

    def _outputs(self, features: Tensor) -> Tensor:
        """Outputs of the head, in the head's precision."""
        return self.head(features.to(self.head.weight.dtype))

    def _linear(self, features: Tensor, width: int, *path: int) -> nn.Linear:
        """A new layer (D, width) in float32 or better, initialised from the seed."""
        with isolated_rng(derive_seed(self.seed, *path), torch.device("cpu")):
            linear = nn.Linear(features.shape[1], width)
        return linear.to(features.device, torch.promote_types(features.dtype, torch.float32))

    def state_dict(self) -> dict[str, Any]:
        """State of the head, if it exists already."""
        return {"head": None if self.head is None else self.head.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.head = None
        if state["head"] is not None:
            weight = state["head"]["weight"]
            self.head = nn.Linear(*reversed(weight.shape)).to(weight)
            self.head.load_state_dict(state["head"])


class MIObjective(Objective):
    """The paper's objective: supervised InfoNCE with one projection for all experiences."""

    def __init__(self, seed: int, temperature: float) -> None:
        super().__init__(seed)
        self.info_nce = SupervisedInfoNCE(temperature)

    def prepare(self, features: Tensor, classes: list[int]) -> nn.Linear:
        """The projection."""
        if self.head is None:
            self.head = self._linear(features, PROJECTION_WIDTH)
        return self.head

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Supervised InfoNCE."""
        return self.info_nce(self._outputs(features), labels)


class CrossEntropyObjective(Objective):
    """Cross-entropy of a linear classifier of the experience's own classes, for comparison."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.classes: list[int] = []

    def prepare(self, features: Tensor, classes: list[int]) -> nn.Linear:
        """The classifier; a new one for new classes."""
        if self.head is None or self.classes != classes:
            self.head = self._linear(features, len(classes), 1, *classes)
            self.classes = classes
        return self.head

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over both views."""
        classes = torch.tensor(self.classes, device=labels.device)
        targets = torch.searchsorted(classes, labels)
        return F.cross_entropy(self._outputs(features), targets.repeat(2))

    def state_dict(self) -> dict[str, Any]:
        """The classifier and its classes."""
        return {**super().state_dict(), "classes": self.classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a classifier and its classes."""
        super().load_state_dict(state)
        self.classes = [*state["classes"]]
