"""Ridge regression from sums: the choice of the ridge, and the solution (pure functions).

With rows h of a design matrix H and targets Y, the sums are G = HᵀH and Q = HᵀY, and the weights
are (G + λI)⁻¹Q (McDonnell et al., RanPAC, arXiv 2307.02251, section 4). Only the lower triangle of
symmetric matrices is read.

Differences from the reference code
    * The losses of all candidates come from one eigendecomposition in float64. There, each takes
      an LU solve in float32, whose result is noise if λ is below the rounding error of G.
    * With fewer than two held-out images per class, the ridge is a share of the mean |h|². There,
      the largest candidate is chosen: a class whose only image is held out has nothing to be
      fitted on.
    * The solve is a Cholesky factorisation; a ridge below G's rounding error is raised to it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))
TRAIN_SHARE = 0.8
HELD_OUT = 2  # images per class; with fewer, candidates cannot be compared
FEW_SHARE = 0.2  # of the mean |h|²
BLOCK = 1024  # rows of H in memory at a time

Expand = Callable[[Tensor], Tensor]  # features (n, D) to their rows of H (n, M)


def validation_losses(expand: Expand, width: int, features: Tensor, targets: Tensor) -> Tensor:
    """Mean squared errors (17,) of all ridges on the last 20 % of the rows, fitted on the others.

    One eigendecomposition in float64, of the smaller of two Gram matrices, serves all ridges: with
    H Hᵀ = U S Uᵀ the prediction is H_val Hᵀ U (S + λ)⁻¹ Uᵀ Y, and with HᵀH = V S Vᵀ it is
    H_val V (S + λ)⁻¹ Vᵀ HᵀY. A ridge below the rounding error of S is raised to it.

    Args:
        expand: returns the rows of H for features.
        width: M, the number of columns of H.
        features: (n, D) in random order, n > 1.
        targets: (n, C).
    """
    n_train = max(1, int(len(features) * TRAIN_SHARE))
    y = targets.to(torch.float64)
    if n_train <= width:
        h = expand(features).to(torch.float64)
        gram = h @ h[:n_train].T  # (n, n_train)
        eigenvalues, vectors = torch.linalg.eigh(gram[:n_train])
        left, right = gram[n_train:] @ vectors, vectors.T @ y[:n_train]
    else:
        gram, cross = sums(expand, width, features[:n_train], y[:n_train])
        eigenvalues, vectors = torch.linalg.eigh(gram)
        left, right = expand(features[n_train:]).to(torch.float64) @ vectors, vectors.T @ cross
    eigenvalues = eigenvalues.clamp(min=0).unsqueeze(1)
    rounding = torch.finfo(torch.float64).eps * float(eigenvalues.sum())
    losses = [
        (left @ (right / (eigenvalues + max(ridge, rounding))) - y[n_train:]).square().mean()
        for ridge in RIDGES
    ]
    return torch.stack(losses)


def choose_ridge(expand: Expand, width: int, features: Tensor, targets: Tensor) -> float:
    """The first ridge with the least validation loss; arguments as :func:`validation_losses`."""
    return RIDGES[int(validation_losses(expand, width, features, targets).argmin())]


def too_few(n: int, classes: int) -> bool:
    """Whether the held-out part of n rows has fewer than two per class on average."""
    return n - max(1, int(n * TRAIN_SHARE)) < HELD_OUT * classes


def ridge_for_few(expand: Expand, features: Tensor) -> float:
    """λ = Σ ‖h‖² / 5n for features (n, D), too few to choose a ridge on.

    It has the scale of the features for any M and n: the prediction for a row that is orthogonal to
    all others is 5/6 of its target.
    """
    total = float(expand(features).to(torch.float64).square().sum())
    return max(FEW_SHARE * total / len(features), RIDGES[0])


def sums(expand: Expand, width: int, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """G (M, M) and Q (M, C) in float64, of features (n, D) and targets (n, C), block by block."""
    gram = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    cross = gram.new_zeros(width, targets.shape[1])
    for f, y in zip(torch.split(features, BLOCK), torch.split(targets, BLOCK), strict=True):
        h = expand(f).to(torch.float64)  # (b, M)
        gram.addmm_(h.T, h)
        cross.addmm_(h.T, y.to(torch.float64))
    return gram, cross


def solve_ridge(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(G + λI)⁻¹ Q by Cholesky, with one copy of G, which stays bit-identical.

    A λ below eps · trace(G), the rounding error of G, would divide noise by noise and is raised to
    that value, and then tenfold until G + λI is positive definite.

    Args:
        gram: G (M, M), symmetric positive semi-definite.
        cross: Q (M, C), in the dtype of G.
        ridge: λ > 0.

    Raises:
        FloatingPointError: G or Q is not finite.
    """
    if not torch.isfinite(gram.sum() + cross.sum()):
        raise FloatingPointError("The ridge statistics contain NaN or Inf. Check the features.")
    diagonal = gram.diagonal().clone()
    ridge = max(ridge, torch.finfo(gram.dtype).eps * float(diagonal.double().sum()))
    while True:
        gram.diagonal().add_(ridge)  # undone below, to avoid a second copy of G (800 MB)
        factor, info = torch.linalg.cholesky_ex(gram)
        gram.diagonal().copy_(diagonal)
        if not int(info):
            break
        ridge *= 10
    half = torch.linalg.solve_triangular(factor, cross, upper=False)  # without a copy of L
    return torch.linalg.solve_triangular(factor.mT, half, upper=True).contiguous()
