"""FeCAM's classifier: distances to class means, in the metric of each class (arXiv 2309.14062)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from .statistics_head import StatisticsHead


class MahalanobisHead(StatisticsHead):
    """Logits -(f - μ)ᵀ N⁻¹ (f - μ), as in :class:`~mist_avalanche.strategies.FeCAM`.

    ``dtype`` is the dtype of the two matrices of each class and of the logits.
    """

    class_axes: Mapping[str, int] = dict.fromkeys(("sums", "scatter", "inverse"), 0)
    sums: Tensor  # (C, D) of f, in float64
    scatter: Tensor  # (C, D, D) sums of (f - μ)(f - μ)ᵀ
    inverse: Tensor  # (C, D, D) N⁻¹

    def __init__(
        self, diagonal_shrinkage: float, off_diagonal_shrinkage: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.shrinkage = diagonal_shrinkage, off_diagonal_shrinkage
        self.register_buffer("sums", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(0, 0, 0, dtype=dtype))
        self.register_buffer("inverse", torch.zeros(0, 0, 0, dtype=dtype))

    @property
    def means(self) -> Tensor:
        """μ (C, D); zero for classes without data."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    def covariance(self, label: int) -> Tensor:
        """Σ (D, D) of a class, in float64; zero if the class has one image."""
        return self.scatter[label].double() / (self.counts[label] - 1).clamp(min=1)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, D) of labels (B,), and invert the matrices of their classes."""
        self._count(features, labels)
        f, (c, d) = F.normalize(features.double(), dim=1), (len(self.counts), features.shape[1])
        if self.sums.shape[1] == 0:
            self.sums = self.sums.new_zeros(c, d)
            self.scatter, self.inverse = (self.scatter.new_zeros(c, d, d) for _ in range(2))
        for y in torch.unique(labels).tolist():
            own = f[labels == y]
            n, m, mean = len(own), int(self.counts[y]) - len(own), own.mean(0)  # new, earlier
            shift = mean - self.sums[y] / max(m, 1)
            scatter = (own - mean).T @ (own - mean) + n * m / (n + m) * torch.outer(shift, shift)
            self.scatter[y] = self.scatter[y].double() + scatter
            self.sums[y] += own.sum(0)
            matrix = correlations(shrink(self.covariance(y), *self.shrinkage))
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if failed:
                raise ValueError(f"No metric for class {y}. Lower `off_diagonal_shrinkage`.")
            self.inverse[y] = torch.cholesky_inverse(factor)

    def _logits(self, features: Tensor) -> Tensor:
        f = F.normalize(features.to(self.inverse.dtype), dim=1)
        difference = f - self.means.to(f.dtype).unsqueeze(1)  # (C, B, D)
        return -((difference @ self.inverse) * difference).sum(2).T


def shrink(covariance: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """Σ' (D, D) of Σ, γ₁ and γ₂, see :class:`~mist_avalanche.strategies.FeCAM`."""
    variances = covariance.diagonal()
    others = covariance - torch.diag(variances)
    shrunk = covariance + off_diagonal * others.sum() / others.count_nonzero().clamp(min=1)
    shrunk.diagonal().copy_(variances + diagonal * variances.mean())
    return shrunk


def correlations(covariance: Tensor) -> Tensor:
    """Σ / (s sᵀ) (D, D), with s² the diagonal of Σ; I if Σ is zero."""
    s = covariance.diagonal().clamp(min=torch.finfo(covariance.dtype).tiny).sqrt()
    return (covariance / torch.outer(s, s)).fill_diagonal_(1)
