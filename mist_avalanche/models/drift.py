"""How the features moved, to move what was stored before (pure).

The affine map is ours, beyond the paper; the shift of class means is SSIAT's (arXiv 2403.19979).
"""

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
        """Moved features (n, D), in their own dtype."""
        return (features.to(self.weight.dtype) @ self.weight + self.bias).to(features.dtype)

    def of_sums(self, totals: Tensor, counts: Tensor) -> Tensor:
        """Moved sums (C, D) of ``counts`` (C,) features each: Σ(x W + b) = (Σx) W + n b."""
        return totals @ self.weight + counts.unsqueeze(1).to(totals.dtype) * self.bias


def fit_drift(before: Tensor, after: Tensor, generator: torch.Generator | None = None) -> AffineMap:
    """The affine map from features before tuning to those after it, of the same images.

    Ridge regression of the displacement ``after - before`` on the centred ``before``; the ridge is
    the candidate with the least error on the last 20 % of the shuffled images. A large one leaves
    the mean displacement alone, so that little data never gives a wild map.

    Args:
        before: (n, V, D), V views of each of n images.
        after: (n, V, D).
        generator: of the split, on the CPU.
    """
    order = torch.randperm(len(before), generator=generator).to(before.device)
    old, new = (f[order].flatten(0, 1).to(torch.float64) for f in (before, after))  # (n V, D)
    mean, shift = old.mean(0), (new - old).mean(0)
    centred, displacement = old - mean, new - old - shift
    weight = torch.eye(old.shape[1], dtype=torch.float64, device=old.device)
    if len(old) >= 2:
        problem = (lambda x: x), old.shape[1], centred, displacement  # H is the features
        weight = weight + solve_ridge(*sums(*problem), choose_ridge(*problem))
    return AffineMap(weight, mean + shift - mean @ weight)


def weighted_shift(means: Tensor, before: Tensor, after: Tensor, sigma: float = 4.0) -> Tensor:
    """How far the features near each of the means (C, D) moved: shifts (C, D) in their dtype.

    That of a mean μ is Σ_i w_i (after_i - before_i), with features (n, D) of the same n images in
    the same order and w_i = exp(-‖before_i - μ‖² / 2σ²) + 1e-5, divided by their sum.
    """
    x, moved = before.double(), (after - before).double()
    weights = torch.exp(-torch.cdist(means.to(x), x).square() / (2 * sigma**2)) + 1e-5  # (C, n)
    return (weights / weights.sum(1, keepdim=True) @ moved).to(means)


def rotations_and_flips(x: Tensor) -> list[Tensor]:
    """Images (B, C, H, W) rotated and mirrored: 8 views of squares, 4 of other rectangles.

    Images of the classes at hand are few and alike. These views show the map more of the feature
    space, where earlier classes may lie (``studies/performance/drift_maps.py`` measures it).
    Inputs that are not images come back as they are.
    """
    if x.ndim != 4:
        return [x]
    quarters = range(4) if x.shape[2] == x.shape[3] else (0, 2)
    rotated = [x.rot90(k, (2, 3)) for k in quarters]
    return [*rotated, *(view.flip(3) for view in rotated)]
