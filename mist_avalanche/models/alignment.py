"""Classifier alignment with one Gaussian per class (SLCA, arXiv 2303.05118, section 3.3).

A linear or cosine classifier is trained again on draws from the Gaussians of all classes so far, so
that the classes of the newest experience do not dominate earlier ones.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DIAGONAL = 1e-4  # added to every covariance
OLDEST = 0.9  # lower bound of the scale of old means; the newest means are scaled by 1
EPSILON = 1e-7  # added to the norm of an experience's logits


class ClassGaussians:
    """Mean and covariance of the features of each class, on the CPU.

    A covariance has the divisor n - 1 and is computed in float64; ``diagonal`` is added to its
    diagonal. A class with one image has only this diagonal. :meth:`draw` scales old means.
    """

    def __init__(self, *, diagonal: float = DIAGONAL, oldest: float = OLDEST) -> None:
        self.diagonal, self.oldest = diagonal, oldest
        self.counts: dict[int, int] = {}  # images by label
        self.experiences: dict[int, int] = {}  # last experience with the class, from 0
        self.means: dict[int, Tensor] = {}  # μ (D,), in float32 or better
        self.factors: dict[int, Tensor] = {}  # L (D, D), where L Lᵀ is the covariance

    @property
    def classes(self) -> list[int]:
        """Sorted labels."""
        return sorted(self.counts)

    @property
    def n_experiences(self) -> int:
        """Number of experiences so far."""
        return max(self.experiences.values(), default=-1) + 1

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add the features (n, D) of an experience, with labels (n,).

        A class that returns gets the mean and covariance of all its features, and is then assigned
        to this experience.

        Raises:
            FloatingPointError: a feature is not finite; nothing is added.
        """
        if not torch.isfinite(features).all():
            raise FloatingPointError(
                "The backbone returns NaN or Inf features. Lower the learning rates, or check its "
                "weights and the images."
            )
        dtype = torch.promote_types(features.dtype, torch.float32)
        features, labels = features.cpu().double(), labels.cpu()
        diagonal = self.diagonal * torch.eye(features.shape[1], dtype=features.dtype)
        experience = self.n_experiences
        for y in torch.unique(labels).tolist():
            own = features[labels == y]
            n, mean = len(own), own.mean(0)
            scatter = (own - mean).T @ (own - mean)  # (D, D)
            if y in self.counts:
                m, factor = self.counts[y], self.factors[y].double()
                shift = mean - self.means[y].double()
                scatter += (m - 1) * (factor @ factor.T - diagonal)
                scatter += n * m / (n + m) * torch.outer(shift, shift)
                n, mean = n + m, mean - shift * m / (n + m)
            covariance = scatter / max(n - 1, 1) + diagonal
            self.counts[y], self.experiences[y] = n, experience
            self.means[y] = mean.to(dtype)
            self.factors[y] = torch.linalg.cholesky(covariance).to(dtype)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw features (C n, D) on the CPU, n from N(k μ, L Lᵀ) for each class in order.

        k = o + (1 - o) (t + 1) / (T + 1) for a class of experience t in 0, …, T; o is ``oldest``.
        """
        rows = []
        for y in self.classes:
            k = self.oldest + (1 - self.oldest) * (self.experiences[y] + 1) / self.n_experiences
            mean = self.means[y]
            noise = torch.randn(n, len(mean), dtype=mean.dtype, generator=generator)
            rows.append(k * mean + noise @ self.factors[y].T)
        return torch.cat(rows)

    def state_dict(self) -> dict[str, Any]:
        """The whole state; tensors are not copied."""
        return {name: {**value} for name, value in vars(self).items() if isinstance(value, dict)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        for name, value in state.items():
            setattr(self, name, {**value})


def normalized_logits(logits: Tensor, experiences: Tensor, temperature: float) -> Tensor:
    """Z / (n τ), where n is the mean over experiences of the norm of their logits.

    Args:
        logits: z (B, C).
        experiences: (C,) the experience of each class, from 0 to T without gaps.
        temperature: τ.
    """
    squares = logits.new_zeros(len(logits), int(experiences.max()) + 1)
    squares = squares.index_add(1, experiences, logits.square())
    tiny = torch.finfo(logits.dtype).tiny  # the root has no gradient at 0
    norms = squares.clamp(min=tiny).sqrt() + EPSILON  # (B, T + 1)
    return logits / (norms.mean(1, keepdim=True) * temperature)


def align(
    weight: Tensor,
    bias: Tensor,
    gaussians: ClassGaussians,
    *,
    epochs: int = 5,
    samples: int = 256,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    temperature: float | None = 0.1,
    scale: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Train a classifier on draws from the Gaussians, in place.

    Each epoch uses new, shuffled draws, and as many steps as there are classes, of SGD with
    momentum 0.9 and a cosine schedule per epoch. Rows of classes without a Gaussian do not change.

    Args:
        weight: (C, D), a row per label.
        bias: (C,).
        gaussians: Gaussians of the classes to train.
        epochs: number of epochs.
        samples: draws per class and epoch, and also per step.
        lr: initial learning rate of SGD.
        weight_decay: weight decay of SGD.
        temperature: τ of :func:`normalized_logits`; None for unnormalised logits.
        scale: s of unnormalised logits s · cos(x, w) without bias; None for linear logits.
        generator: source of the draws, on the CPU; None for torch's default.

    Yields:
        After each epoch, the losses (C,) of its steps.
    """
    classes = torch.tensor(gaussians.classes)
    numbers = torch.tensor([gaussians.experiences[y] for y in gaussians.classes])
    experiences = torch.unique(numbers, return_inverse=True)[1].to(weight.device)
    labels = torch.arange(len(classes)).repeat_interleave(samples)
    w, b = (rows.detach()[classes].requires_grad_() for rows in (weight, bias))
    optimizer = torch.optim.SGD([w, b], lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        drawn, losses = gaussians.draw(samples, generator), []
        order = torch.randperm(len(drawn), generator=generator)
        for rows in torch.split(order, samples):
            x, y = drawn[rows].to(w), labels[rows].to(w.device)
            if scale is not None:
                logits = scale * F.normalize(x, dim=1) @ F.normalize(w, dim=1).T
            elif temperature is None:
                logits = F.linear(x, w, b)
            else:
                logits = normalized_logits(F.linear(x, w, b), experiences, temperature)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        weight[classes], bias[classes] = w.detach(), b.detach()
        yield torch.stack(losses)
