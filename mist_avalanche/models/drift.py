"""Models of feature drift, used to move stored statistics along with it (pure functions).

The affine map is ours, not the paper's; the shift of class means is SSIAT's (arXiv 2403.19979).
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
        """Moved features (n, D), in the dtype of the input."""
        return (features.to(self.weight.dtype) @ self.weight + self.bias).to(features.dtype)

    def of_sums(self, totals: Tensor, counts: Tensor) -> Tensor:
        """Moved sums (C, D) over ``counts`` (C,) features each: Σ(x W + b) = (Σx) W + n b."""
        return totals @ self.weight + counts.unsqueeze(1).to(totals.dtype) * self.bias


def fit_drift(before: Tensor, after: Tensor, generator: torch.Generator | None = None) -> AffineMap:
    """Fit the affine map from features before tuning to features of the same images after it.

    Ridge regression of the displacement ``after - before`` on the centred ``before``; the ridge is
    the candidate with the least error on the last 20 % of the shuffled images. With a large ridge,
    only the mean displacement remains, so that little data cannot produce an extreme map.

    Args:
        before: (n, V, D), V views of each of n images.
        after: (n, V, D).
        generator: source of the random split, on the CPU.
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
    """Shifts (C, D) of the means (C, D): how far the features near each mean moved.

    The shift of a mean μ is Σ_i w_i (after_i - before_i), with features (n, D) of the same n images
    in the same order, and w_i = exp(-‖before_i - μ‖² / 2σ²) + 1e-5, divided by their sum.
    """
    x, moved = before.double(), (after - before).double()
    weights = torch.exp(-torch.cdist(means.to(x), x).square() / (2 * sigma**2)) + 1e-5  # (C, n)
    return (weights / weights.sum(1, keepdim=True) @ moved).to(means)


def rotations_and_flips(x: Tensor) -> list[Tensor]:
    """Rotated and mirrored images (B, C, H, W): 8 views of square images, 4 of other rectangles.

    The images of the current classes are few and similar. These views cover more of the feature
    space, where earlier classes may lie (measured in ``studies/performance/drift_maps.py``).
    Inputs that are not images are returned unchanged.
    """
    if x.ndim != 4:
        return [x]
    quarters = range(4) if x.shape[2] == x.shape[3] else (0, 2)
    rotated = [x.rot90(k, (2, 3)) for k in quarters]
    return [*rotated, *(view.flip(3) for view in rotated)]
