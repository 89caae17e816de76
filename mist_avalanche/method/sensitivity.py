"""Sensitivity of each weight to an objective (section 3 of the paper)."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def fisher_scores(
    loss_of: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    parameters: Mapping[str, Tensor],
    protected: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """F_i = mean over mini-batches of (∂L/∂θ_i)², with the gradient of the batch's loss.

    No state changes: autograd returns the gradients and never stores them in ``.grad``.

    Args:
        loss_of: scalar loss of one batch.
        batches: one pass over the data.
        parameters: leaf tensors by name.
        protected: by name, entries (bool, shaped like the parameter) whose score is zero.

    Returns:
        Scores by name, each shaped like its parameter, in float32 or better. A parameter that the
        loss does not depend on is left out.

    Raises:
        ValueError: there is no batch, or no parameter that the loss depends on.
        FloatingPointError: a loss is not finite; the message names the batch.
    """
    return _mean_over_batches(loss_of, batches, parameters, protected, torch.square)


def gradient_scores(
    loss_of: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    parameters: Mapping[str, Tensor],
    protected: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """|mean over mini-batches of ∂L/∂θ_i|; otherwise like :func:`fisher_scores`."""
    means = _mean_over_batches(loss_of, batches, parameters, protected, torch.clone)
    return {name: mean.abs_() for name, mean in means.items()}


def _mean_over_batches(
    loss_of: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    parameters: Mapping[str, Tensor],
    protected: Mapping[str, Tensor] | None,
    transform: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean over batches of ``transform(gradient)``; zero where an entry is protected."""
    totals: dict[str, Tensor] = {}
    losses: list[Tensor] = []  # read at the end: reading synchronises with the GPU
    for batch in batches:
        loss = loss_of(batch)
        gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                dtype = torch.promote_types(gradient.dtype, torch.float32)
                value = transform(gradient.detach().to(dtype))
                totals[name] = totals[name] + value if name in totals else value
        losses.append(loss.detach())
    if not losses:
        raise ValueError("There is no batch with at least two images to score on.")
    if not totals:
        raise ValueError("The loss does not depend on any parameter: there is nothing to tune.")
    finite_mean(losses, "score pass")
    for name, entries in (protected or {}).items():
        if name in totals:
            totals[name].masked_fill_(entries, 0)
    return {name: total.div_(len(losses)) for name, total in totals.items()}


def finite_mean(losses: list[Tensor], where: str) -> float:
    """Mean loss of one pass; raises FloatingPointError at the first loss that is not finite."""
    values = torch.stack(losses).tolist()  # once per pass: reading synchronises with the GPU
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"MIST, {where}, batch {i}: the loss is {value}. Check the images and the weights "
                "for NaN or Inf, or lower `lr`."
            )
    return float(sum(values) / len(values))
