"""How tuning moved the features, as an affine map that moves what was stored before it (pure).

Ours, beyond the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ridge import choose_ridge, solve_ridge, sums


@dataclass(frozen=True)
class AffineMap:
    """x ↦ x W + b.

    Args:
        weight: W (D, D) in float64.
        bias: b (D,) in float64.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Moved features (n, D), in the dtype that came."""
        moved: Tensor = features.to(self.weight.dtype) @ self.weight + self.bias
        return moved.to(features.dtype)

    def of_sums(self, totals: Tensor, counts: Tensor) -> Tensor:
        """Sums (C, D) of ``counts`` (C,) features each, moved: W and b commute with sums."""
        return totals @ self.weight + counts.unsqueeze(1).to(totals.dtype) * self.bias


def fit_drift(before: Tensor, after: Tensor, generator: torch.Generator | None = None) -> AffineMap:
    """The affine map from features before tuning to those after it, of the same images.

    Ridge regression of the displacement ``after - before`` on the centred ``before``; the ridge is
    the candidate with the least error on 20 % of the images held out. A large one leaves a shift by
    the mean displacement, so that little data never means a wild map.

    Args:
        before: (n, D).
        after: (n, D).
        generator: of the split, on the CPU.

    Raises:
        ValueError: the shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"Expected equal shapes, got {before.shape} and {after.shape}.")
    order = torch.randperm(len(before), generator=generator).to(before.device)
    old, new = before[order].to(torch.float64), after[order].to(torch.float64)
    mean, shift = old.mean(0), (new - old).mean(0)
    centred, displacement = old - mean, new - old - shift
    width = old.shape[1]
    weight = torch.eye(width, dtype=torch.float64, device=old.device)
    if len(old) >= 2:
        ridge = choose_ridge(_columns, width, centred, displacement)
        weight = weight + solve_ridge(
            *sums(_columns, width, centred, displacement, torch.float64), ridge
        )
    return AffineMap(weight, mean + shift - mean @ weight)


def _columns(features: Tensor, columns: slice) -> Tensor:
    return features[:, columns]
