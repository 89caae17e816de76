"""Classifier alignment with a Gaussian for each class (SLCA, arXiv 2303.05118, section 3.3).

What is drawn from the Gaussians of all classes so far trains a linear classifier once more, so that
the classes of the newest experience do not outweigh those of earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIAGONAL = 1e-4  # added to every covariance
OLDEST = 0.9  # means are scaled by more than this, those of the newest experience by 1
EPSILON = 1e-7  # added to the norm of an experience's logits


class ClassGaussians:
    """Mean and covariance of each class's features, in the memory of the CPU.

    A covariance has the divisor n - 1, is computed in float64, and gets 1e-4 on its diagonal. A
    class with one image has that alone. What is kept is its lower Cholesky factor, D² numbers a
    class, made once.

    Attributes:
        counts: label to images so far.
        experiences: label to the number, from 0, of the experience that has had it last.
        means: label to (D,), in float32 or better.
        factors: label to L (D, D), the covariance being L Lᵀ.
    """

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.experiences: dict[int, int] = {}
        self.means: dict[int, Tensor] = {}
        self.factors: dict[int, Tensor] = {}

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

        A class that was there before has the mean and covariance of all its features together,
        and belongs to this experience from now on.

        Raises:
            FloatingPointError: a feature is not finite; nothing was added.
        """
        if not torch.isfinite(features).all():
            raise FloatingPointError(
                "The backbone gives NaN or Inf features. Lower the learning rates, or check its "
                "weights and the images."
            )
        kept = torch.promote_types(features.dtype, torch.float32)
        features, labels = features.cpu().to(torch.float64), labels.cpu()
        experience = self.n_experiences
        for y in torch.unique(labels).tolist():
            own = features[labels == y]
            n, mean = len(own), own.mean(0)
            scatter = (own - mean).T @ (own - mean)  # (D, D)
            if y in self.counts:
                n, mean, scatter = self._with_earlier(y, n, mean, scatter)
            covariance = scatter / max(n - 1, 1)
            covariance.diagonal().add_(DIAGONAL)
            self.counts[y], self.experiences[y] = n, experience
            self.means[y] = mean.to(kept)
            self.factors[y] = torch.linalg.cholesky(covariance).to(kept)

    def _with_earlier(
        self, y: int, n: int, mean: Tensor, scatter: Tensor
    ) -> tuple[int, Tensor, Tensor]:
        """Count, mean and scatter of a class's new features and its earlier ones together."""
        earlier, factor = self.counts[y], self.factors[y].to(torch.float64)
        covariance = factor @ factor.T
        covariance.diagonal().sub_(DIAGONAL)
        apart = mean - self.means[y].to(torch.float64)
        both = n + earlier
        scatter = scatter + (earlier - 1) * covariance
        scatter += n * earlier / both * torch.outer(apart, apart)
        return both, mean - apart * (earlier / both), scatter

    def scale(self, y: int) -> float:
        """K = 0.9 + 0.1 (t + 1) / (T + 1) for a class of experience t of 0, …, T."""
        return OLDEST + (1 - OLDEST) * (self.experiences[y] + 1) / self.n_experiences

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Features (C n, D) on the CPU, n from N(k μ, L Lᵀ) of each class in order.

        Args:
            n: draws a class.
            generator: on the CPU; None for torch's own.
        """
        first = self.means[self.classes[0]]
        drawn = first.new_empty(len(self.counts), n, len(first))
        for own, y in zip(drawn, self.classes, strict=True):
            noise = standard_normal(n, first, generator)
            torch.addmm(self.scale(y) * self.means[y], noise, self.factors[y].T, out=own)
        return drawn.flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """All of it; tensors are not copied."""
        return {name: {**value} for name, value in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`."""
        for name in vars(self):
            setattr(self, name, {int(y): value for y, value in state[name].items()})


def standard_normal(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(n, D) draws for features like one (D,)."""
    return torch.randn(n, len(like), dtype=like.dtype, generator=generator)


def shuffled(n: int, generator: torch.Generator | None) -> Tensor:
    """The order (n,) in which draws are used."""
    return torch.randperm(n, generator=generator)


def normalized_logits(logits: Tensor, experiences: Tensor, temperature: float) -> Tensor:
    """Z / (n τ), where n is the mean over experiences of the norm of their logits.

    Args:
        logits: z (B, C).
        experiences: (C,) numbers 0, …, T, none left out: the experience of each class.
        temperature: τ.
    """
    squares = logits.new_zeros(len(logits), int(experiences.max()) + 1)
    squares = squares.index_add(1, experiences, logits.square())
    tiny = torch.finfo(logits.dtype).tiny  # the root has no gradient at 0
    norms = squares.clamp(min=tiny).sqrt() + EPSILON  # (B, T + 1)
    return logits / (norms.mean(1, keepdim=True) * temperature)


def cosine_rate(epoch: int, epochs: int) -> float:
    """The share of a learning rate in an epoch, counted from 0: from 1 on a cosine to 0."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def align(
    linear: nn.Linear,
    gaussians: ClassGaussians,
    *,
    epochs: int = 5,
    samples: int = 256,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    temperature: float | None = 0.1,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Train a linear classifier on draws from the Gaussians, in place; nothing else is needed.

    An epoch has new draws, shuffled, and as many steps as classes, of SGD whose rate follows a
    cosine to 0, an epoch at a time. Classes without a Gaussian keep their rows.

    Args:
        linear: its rows are the classes.
        gaussians: of the classes to train.
        epochs: passes.
        samples: draws a class and epoch, and draws a step.
        lr: of SGD, at first.
        momentum: of SGD.
        weight_decay: of SGD.
        temperature: τ of ``normalized_logits``; None for plain logits.
        generator: of the draws, on the CPU; None for torch's own.

    Yields:
        After each epoch, the loss (C,) of its steps.
    """
    classes = torch.tensor(gaussians.classes)
    numbers = torch.tensor([gaussians.experiences[y] for y in gaussians.classes])
    experiences = torch.unique(numbers, return_inverse=True)[1].to(linear.weight.device)
    labels = torch.arange(len(classes)).repeat_interleave(samples)
    weight, bias = (p.detach()[classes].requires_grad_() for p in (linear.weight, linear.bias))
    optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr * cosine_rate(epoch, epochs)
        drawn, losses = gaussians.draw(samples, generator), []
        for rows in torch.split(shuffled(len(drawn), generator), samples):
            x, y = (part[rows].to(weight.device) for part in (drawn, labels))
            with torch.enable_grad():
                logits = F.linear(x.to(weight.dtype), weight, bias)
                if temperature is not None:
                    logits = normalized_logits(logits, experiences, temperature)
                loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            linear.weight[classes], linear.bias[classes] = weight, bias
        yield torch.stack(losses)
