"""Classifier alignment with one Gaussian per class (SLCA, arXiv 2303.05118, section 3.3).

Draws from the Gaussians of all classes so far train a linear or cosine classifier once more, so
that the classes of the newest experience do not outweigh earlier ones.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DIAGONAL = 1e-4  # added to every covariance
OLDEST = 0.9  # means of the newest experience are scaled by 1, older ones by down to this
EPSILON = 1e-7  # added to the norm of an experience's logits


class ClassGaussians:
    """Mean and covariance of the features of each class, on the CPU.

    A covariance has the divisor n - 1, is computed in float64, and gets ``diagonal`` on its
    diagonal, which is all that a class with one image has. Means are scaled by ``oldest`` to 1.
    """

    def __init__(self, *, diagonal: float = DIAGONAL, oldest: float = OLDEST) -> None:
        self.diagonal, self.oldest = diagonal, oldest
        self.counts: dict[int, int] = {}  # images by label
        self.experiences: dict[int, int] = {}  # the last one, from 0, that had the class
        self.means: dict[int, Tensor] = {}  # μ (D,), in float32 or better
        self.factors: dict[int, Tensor] = {}  # L (D, D), where L Lᵀ is the covariance

    @property
    def classes(self) -> list[int]:
        """Labels in order."""
        return sorted(self.counts)

    @property
    def n_experiences(self) -> int:
        """How many experiences there have been."""
        return max(self.experiences.values(), default=-1) + 1

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add an experience, features (n, D) of labels (n,).

        A class that comes back gets the mean and covariance of all its features, and belongs to
        this experience from now on.

        Raises:
            FloatingPointError: a feature is not finite; nothing was added.
        """
        if not torch.isfinite(features).all():
            raise FloatingPointError(
                "The backbone gives NaN or Inf features. Lower the learning rates, or check its "
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
        """Features (C n, D) on the CPU, n from N(k μ, L Lᵀ) of each class in order.

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
        """All of it; tensors are not copied."""
        return {name: {**value} for name, value in vars(self).items() if isinstance(value, dict)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what a :meth:`state_dict` was of."""
        for name, value in state.items():
            setattr(self, name, {**value})


def normalized_logits(logits: Tensor, experiences: Tensor, temperature: float) -> Tensor:
    """Z / (n τ), where n is the mean over experiences of the norm of their logits.

    Args:
        logits: z (B, C).
        experiences: (C,) the experience of each class, numbers 0, …, T without a gap.
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

    An epoch has new draws, shuffled, and as many steps as there are classes, of SGD with momentum
    0.9 and a cosine schedule per epoch. Classes without a Gaussian keep their rows.

    Args:
        weight: (C, D), a row per label.
        bias: (C,).
        gaussians: of the classes to train.
        epochs: passes.
        samples: draws per class and epoch, and draws per step.
        lr: of SGD, at first.
        weight_decay: of SGD.
        temperature: τ of :func:`normalized_logits`; None for logits as they are.
        scale: s of logits s · cos(x, w), as they are, without bias; None for linear logits.
        generator: of the draws, on the CPU; None for torch's own.

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
