"""Ridge regression from sums: the choice of the ridge, and the solution (pure).

With rows h of a design matrix H and targets Y, the sums are G = HᵀH and Q = HᵀY, and the weights
are (G + λI)⁻¹Q (McDonnell et al., RanPAC, arXiv 2307.02251, section 4).

Differences from the reference code
    * The losses of all candidates come from one eigendecomposition in float64. There, each takes
      an LU solve in float32, whose result is noise where λ is below the rounding of G.
    * With fewer than two held-out images a class the ridge is a share of the mean |h|². There, what
      one image a class is held out for has no image to fit: an infinite ridge looks best.
    * The solve is a Cholesky factorisation, and a ridge below the rounding of G is raised to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .triangle import add_products, mirror

log = logging.getLogger(__name__)
RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))
TRAIN_SHARE = 0.8
HELD_OUT = 2  # images a class; with fewer they cannot tell ridges apart
FEW_SHARE = 0.2  # of the mean |h|²
_NOT_FINITE = "The ridge statistics hold NaN or Inf. Check the features."
BLOCK = 1024  # rows, or columns, of H that exist at a time

_RAISED: set[float] = set()  # of which it was said
Expand = Callable[[Tensor, slice], Tensor]  # features (n, D), columns -> those columns of H (n, m)


def validation_losses(
    expand: Expand, width: int, features: Tensor, targets: Tensor, ridges: Sequence[float] = RIDGES
) -> Tensor:
    """Mean squared error on the last 20 % of the rows, fitted on the others, for every ridge.

    One symmetric eigendecomposition in float64, of the smaller of two Gram matrices, serves all
    ridges: with H Hᵀ = U S Uᵀ the prediction is H_val Hᵀ U (S + λ)⁻¹ Uᵀ Y, and with HᵀH = V S Vᵀ it
    is H_val V (S + λ)⁻¹ Vᵀ HᵀY. The first, of n rows, never holds more than a block of H. A ridge
    below the rounding of the eigenvalues counts as that rounding.

    Args:
        expand: gives the chosen columns of H for some features.
        width: M, the number of columns of H.
        features: (n, D) in random order.
        targets: (n, C).
        ridges: R candidates, positive.

    Returns:
        (R,) losses in float64, means over rows and columns of the targets.

    Raises:
        ValueError: fewer than two rows.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"Expected at least two rows to choose a ridge on, got {n}.")
    n_train = max(1, int(n * TRAIN_SHARE))
    y = targets.to(torch.float64)
    if n_train <= width:
        gram = y.new_zeros(n, n_train)  # H H_trainᵀ
        for start in range(0, width, BLOCK):
            h = expand(features, slice(start, start + BLOCK)).to(torch.float64)  # (n, m)
            gram.addmm_(h, h[:n_train].T)
        eigenvalues, vectors = torch.linalg.eigh(gram[:n_train])
        left, right = gram[n_train:] @ vectors, vectors.T @ y[:n_train]
    else:
        columns = slice(0, width)
        gram, cross = sums(expand, width, features[:n_train], y[:n_train], torch.float64)
        eigenvalues, vectors = torch.linalg.eigh(gram)
        left = expand(features[n_train:], columns).to(torch.float64) @ vectors
        right = vectors.T @ cross
    eigenvalues = eigenvalues.clamp(min=0).unsqueeze(1)
    rounding = torch.finfo(torch.float64).eps * float(eigenvalues.sum())
    losses = [
        (left @ (right / (eigenvalues + max(ridge, rounding))) - y[n_train:]).square().mean()
        for ridge in ridges
    ]
    return torch.stack(losses)


def choose_ridge(
    expand: Expand, width: int, features: Tensor, targets: Tensor, ridges: Sequence[float] = RIDGES
) -> float:
    """The first ridge of least validation loss; arguments as for ``validation_losses``."""
    return ridges[int(validation_losses(expand, width, features, targets, ridges).argmin())]


def too_few(n: int, classes: int) -> bool:
    """Whether the held-out part of n rows has fewer than two a class, on the average."""
    return n - max(1, int(n * TRAIN_SHARE)) < HELD_OUT * classes


def ridge_for_few(expand: Expand, width: int, features: Tensor) -> float:
    """λ = Σ ‖h‖² / 5n, where there are too few rows to choose one on.

    It has the scale of the features, whatever M and n are: a row that is orthogonal to all others
    gets 5/6 of its target, so that a lone image is learnt, and shrunk a little.

    Args:
        expand: as for ``validation_losses``.
        width: M.
        features: (n, D).
    """
    total = 0.0
    for start in range(0, width, BLOCK):
        h = expand(features, slice(start, start + BLOCK)).to(torch.float64)
        total += float(h.square().sum())
    return max(FEW_SHARE * total / len(features), RIDGES[0])


def sums(
    expand: Expand, width: int, features: Tensor, targets: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """G (M, M) and Q (M, C) of features (n, D) and targets (n, C), block by block."""
    gram = torch.zeros(width, width, dtype=dtype, device=features.device)
    cross = torch.zeros(width, targets.shape[1], dtype=dtype, device=features.device)
    for f, y in zip(*(torch.split(part, BLOCK) for part in (features, targets)), strict=True):
        h = expand(f, slice(0, width)).to(dtype)  # (b, M)
        add_products(gram, h)
        cross.addmm_(h.T, y.to(dtype))
    return mirror(gram), cross


def check_range(features: Tensor, projection: Tensor, gram: Tensor) -> None:
    """Refuse features (B, D) that could take G beyond its range, as |h|² ≤ |f|² |W|².

    Args:
        features: f.
        projection: W (D, M); empty for h = f.
        gram: G.

    Raises:
        FloatingPointError: they are too large.
    """
    bound = features.double().square().sum()
    if projection.numel():
        bound = bound * projection.double().square().sum()
    if float(bound + gram.diagonal().double().sum()) > torch.finfo(gram.dtype).max / 2:
        raise FloatingPointError(
            f"The features, up to {float(features.abs().max()):.3g}, are too large for sums in "
            f"{gram.dtype}. Scale them, or use RanPAC(dtype='float64')."
        )


def solve_ridge(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(G + λI)⁻¹ Q by Cholesky, with one copy of G, which is left as it was to the bit.

    A λ below eps · trace(G), the rounding of G in its precision, would divide noise by noise and
    is raised to that. Should the factorisation still fail, λ is raised tenfold until it succeeds.
    Either is logged.

    Args:
        gram: G (M, M), symmetric positive semi-definite.
        cross: Q (M, C), in the dtype of G.
        ridge: λ > 0.

    Returns:
        (M, C) in the dtype of G.

    Raises:
        FloatingPointError: G or Q is not finite.
    """
    trace = float(gram.diagonal().sum())
    if not (abs(trace) < float("inf") and bool(torch.isfinite(cross).all())):
        raise FloatingPointError(_NOT_FINITE)
    raised = max(ridge, torch.finfo(gram.dtype).eps * trace)
    while (weights := _factored(gram, cross, raised)) is None:
        raised *= 10
        if raised > trace * len(gram) + ridge:  # beyond any rounding
            raise FloatingPointError(_NOT_FINITE)
    if raised != ridge:
        _tell_raised(ridge, raised)
    return weights


def _tell_raised(ridge: float, raised: float) -> None:
    """Say it the first time that it happens to a ridge."""
    if ridge not in _RAISED:
        _RAISED.add(ridge)
        text = "The ridge %g is below the rounding of G, here and maybe later; solved with %.3g."
        log.warning(text, ridge, raised)


def _factored(gram: Tensor, cross: Tensor, ridge: float) -> Tensor | None:
    """(G + λI)⁻¹ Q in the dtype of G; None when G + λI is not positive definite."""
    diagonal = gram.diagonal().clone()
    gram.diagonal().add_(ridge)
    try:
        factor, info = torch.linalg.cholesky_ex(gram)
    finally:
        gram.diagonal().copy_(diagonal)
    return _back_substitute(factor, cross) if int(info) == 0 else None


def _back_substitute(factor: Tensor, cross: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ Q for L (M, M) and Q (M, C), without the copy of L of torch.cholesky_solve."""
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    weights: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return weights.contiguous()
