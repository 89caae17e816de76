"""Symmetric matrices: summed and stored as a triangle, and symmetric to the bit (pure)."""

from __future__ import annotations

import math

import torch
from scipy.linalg import blas
from torch import Tensor

_BLOCK = 1024
_RANK_K = {torch.float64: blas.dsyrk, torch.float32: blas.ssyrk}


def add_products(matrix: Tensor, rows: Tensor) -> None:
    """Add HᵀH of rows H (n, M) to the lower triangle of a matrix (M, M), in place.

    On the CPU it is a symmetric rank-k update, which computes half of the products; elsewhere the
    upper triangle gets its share, too. :func:`mirror` makes the upper one of the lower one.
    """
    rank_k = _RANK_K.get(matrix.dtype)
    if rank_k is None or matrix.device.type != "cpu" or not matrix.is_contiguous():
        matrix.addmm_(rows.T, rows)
        return
    # to Fortran a matrix in C's order is its transpose, and so its lower triangle the upper one
    rank_k(1.0, rows.numpy().T, 1.0, matrix.numpy().T, overwrite_c=1)


def mirror(matrix: Tensor) -> Tensor:
    """Let the upper triangle of a matrix (M, M) be the lower one, in place.

    A product such as HᵀH is symmetric but for its last bits, which depend on how it was blocked.
    """
    for i in range(0, len(matrix), _BLOCK):
        j = min(i + _BLOCK, len(matrix))
        corner = matrix[i:j, i:j].tril()
        matrix[i:j, i:j] = corner + corner.tril(-1).T
        matrix[i:j, j:] = matrix[j:, i:j].T
    return matrix


def pack(matrix: Tensor) -> Tensor:
    """The lower triangle (M (M + 1) / 2,) of a matrix (M, M), row by row."""
    rows = [row[: i + 1] for i, row in enumerate(matrix)]
    return torch.cat(rows) if rows else matrix.new_zeros(0)


def unpack(triangle: Tensor) -> Tensor:
    """The symmetric matrix (M, M) of a :func:`pack`.

    Raises:
        ValueError: it is no triangle.
    """
    m = (math.isqrt(8 * triangle.numel() + 1) - 1) // 2
    if triangle.shape != (m * (m + 1) // 2,):
        raise ValueError(f"{triangle.numel()} entries are no triangle")
    matrix = triangle.new_zeros(m, m)
    for i, row in enumerate(torch.split(triangle, [*range(1, m + 1)])):
        matrix[i, : i + 1] = row
    return mirror(matrix)
