"""CODA-Prompt's components with attention (Smith et al., arXiv 2211.13218)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...utils import check_integer, check_rate
from .base import PromptModule, PromptOutput

_SMALL = 1e-8  # squared length below which a row is drawn again


class ComponentPrompts(PromptModule):
    """Prefixes that are sums of components, weighted by how well each matches the query.

    For each block, α_m = cos(q ⊙ A_m, K_m) and p = Σ_m α_m P_m, over the components of all
    experiences. The first half of p is the key prefix, the second the value prefix. New components
    are initialised orthogonal to all others (``orthogonal_rows``).

    The loss is μ Σ_blocks (pen(K) + pen(A) + pen(P)), where pen(Z) is the mean of (Z Zᵀ - I)².
    ``orthogonality`` is μ; see :class:`~mist_avalanche.strategies.CODAPrompt`.
    """

    def __init__(
        self,
        n_features: int,
        *,
        per_experience: int = 10,
        length: int = 8,
        blocks: Sequence[int] = (0, 1, 2, 3, 4),
        orthogonality: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(n_features, seed)
        self.per_experience = check_integer("per_experience", per_experience, 1)
        self.length = check_integer("length", length, 2)
        if self.length % 2:
            raise ValueError(f"Expected an even `length` (keys and values), got {length}.")
        self.blocks = tuple(blocks)
        self.orthogonality = check_rate("orthogonality", orthogonality, "[0, inf)")
        self.components = nn.ParameterList()  # P of each experience, (blocks, m, L, D)
        self.keys = nn.ParameterList()  # K, (blocks, m, D)
        self.attention = nn.ParameterList()  # A, (blocks, m, D)

    def begin_experience(self) -> None:
        """Add components orthogonal to all earlier ones, or raise ValueError; freeze those."""
        room = self.n_features // self.per_experience
        if len(self.keys) >= room:
            raise ValueError(
                f"CODA-Prompt with per_experience={self.per_experience} has room for {room} "
                f"experiences at a width of {self.n_features}: further keys cannot be orthogonal. "
                "Use a smaller per_experience."
            )
        row = (self.n_features,)
        self._add(self.components, 0, (self.length, *row))
        self._add(self.keys, 1, row)
        self._add(self.attention, 2, row)
        self.freeze_earlier()

    def _add(self, parts: nn.ParameterList, kind: int, shape: tuple[int, ...]) -> None:
        """Add rows (blocks, m, *shape), in each block orthogonal to the earlier ones."""
        width, starts = math.prod(shape), []
        for b in range(len(self.blocks)):
            old = [self._like.new_zeros(0, width), *(rows[b].detach().flatten(1) for rows in parts)]
            draw = self.drawing(len(parts), kind, b, width)
            starts.append(orthogonal_rows(torch.cat(old), self.per_experience, draw))
        parts.append(self.new(torch.stack(starts).reshape(len(starts), -1, *shape)))

    def drawing(self, experience: int, kind: int, block: int, width: int) -> Callable[[], Tensor]:
        """A function that draws standard normal rows (width,), by experience, kind and block."""
        generator = self.generator(experience, kind, block)
        return lambda: torch.randn(width, generator=generator, dtype=torch.float64)

    def forward(self, query: Tensor) -> PromptOutput:
        """Prefixes for queries (B, D) (none before the first experience), and the penalty."""
        if not len(self.keys):
            return PromptOutput(query.new_zeros(()))
        lists = self.components, self.keys, self.attention
        p, k, a = (torch.cat([*parts], dim=1) for parts in lists)
        # ‖q ⊙ A‖ = √(q² · A²) and (q ⊙ A) · K = q · (A ⊙ K), which avoids a (B, m, D) tensor.
        norms = (query.square() @ a.square().mT).clamp(min=1e-24).sqrt()  # (blocks, B, m)
        weights = query @ (a * F.normalize(k, dim=-1)).mT / norms
        summed = torch.einsum("nbm,nmld->nbld", weights, p)
        half = self.length // 2
        prefixes = {
            block: (prefix[:, :half], prefix[:, half:])
            for block, prefix in zip(self.blocks, summed, strict=True)
        }
        loss = query.new_zeros(())
        if self.training and self.orthogonality:
            loss = self.orthogonality * (_penalty(k) + _penalty(a) + _penalty(p.flatten(2)))
        return PromptOutput(loss, prefixes=prefixes)


def _penalty(rows: Tensor) -> Tensor:
    """Sum over blocks of the mean of (Z Zᵀ - I)², for rows Z (blocks, m, width)."""
    unit = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (rows @ rows.mT - unit).square().mean((1, 2)).sum()


def orthogonal_rows(old: Tensor, n: int, draw: Callable[[], Tensor]) -> Tensor:
    """Random unit rows (n, W), each orthogonalised against all previous rows.

    u = v - Σ_j (v·u_j)/(u_j·u_j) u_j (classical Gram-Schmidt), where j runs over the old rows and
    over the new rows before normalisation. A row whose remainder is almost zero is drawn again.

    Args:
        old: (m, W), not necessarily orthogonal or of norm 1.
        n: number of new rows; m + n is at most W.
        draw: returns a random row (W,).
    """
    rows = old.to("cpu", torch.float64)
    while len(rows) < len(old) + n:
        v = draw().to(rows)
        u = v - ((rows @ v) / rows.square().sum(1).clamp(min=_SMALL**2)) @ rows
        if float(u @ u) >= _SMALL:
            rows = torch.cat([rows, u.unsqueeze(0)])
    return F.normalize(rows[len(old) :], dim=1)
