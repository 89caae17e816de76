"""Supervised InfoNCE: mutual information between two views, and between features and labels.

Source: "Mutual Information-guided Sparse Tuning" (arXiv 2505.19943), built on the supervised
contrastive bound of Khosla et al. (arXiv 2004.11362).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEMPERATURE = 0.07  # τ
_EPS = 1e-8


def normalize_rows(z: Tensor) -> Tensor:
    """Rows of (N, P) divided by their length + 1e-8."""
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    normalized: Tensor = z / (length + _EPS)
    return normalized


def supervised_info_nce(z: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    r"""The MI objective of MIST on a batch of two views.

    With S = z zᵀ minus each row's maximum, E = exp(S / τ) without its diagonal and
    ℓ_ij = -log(E_ij / (Σ_k E_ik + 1e-8) + 1e-8), the loss is

        mean_r ℓ(r, other view of r) + 2 mean_r Σ_j w_rj ℓ_rj,   w_rj = [y_r = y_j] / n_r,

    where n_r counts the rows with r's label, r itself included.

    Args:
        z: (2B, P) projected features, each row of length one; rows 0..B-1 are the first view,
            rows B..2B-1 the second view of the same images.
        labels: (B,) class of each image.
        temperature: τ > 0.

    Returns:
        A scalar in z's dtype.

    Raises:
        ValueError: the shapes do not match.
    """
    if z.ndim != 2 or labels.ndim != 1 or len(z) != 2 * len(labels):
        raise ValueError(
            f"Expected `z` of shape (2B, P) and `labels` of shape (B,), two views of each image; "
            f"got {tuple(z.shape)} and {tuple(labels.shape)}."
        )
    rows = len(z)
    similarity = z @ z.T  # (2B, 2B)
    similarity = similarity - similarity.amax(dim=1, keepdim=True)
    itself = torch.eye(rows, dtype=torch.bool, device=z.device)
    e = (similarity / temperature).exp().masked_fill(itself, 0)
    nll = -(e / (e.sum(dim=1, keepdim=True) + _EPS) + _EPS).log()  # (2B, 2B)

    other_view = torch.arange(rows, device=z.device).roll(rows // 2)
    between_views = nll.gather(1, other_view.unsqueeze(1)).mean()

    y = labels.repeat(2)
    same = (y.unsqueeze(1) == y).to(z.dtype)
    with_labels = (nll * same / same.sum(dim=1, keepdim=True)).sum(dim=1).mean()
    return between_views + 2 * with_labels


class SupervisedInfoNCE(nn.Module):
    """:func:`supervised_info_nce` of projections, which it normalises."""

    def __init__(self, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` > 0, got {temperature}.")
        self.temperature = temperature

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Loss of z (2B, P), in float32 or better, and labels (B,)."""
        if z.dtype in (torch.float16, torch.bfloat16):
            z = z.float()
        return supervised_info_nce(normalize_rows(z), labels, self.temperature)
