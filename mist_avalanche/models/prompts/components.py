"""CODA-Prompt's components with attention (Smith et al., arXiv 2211.13218)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._support.checks import check_integer, check_rate
from .base import Attached, PromptModule

_SMALL = 1e-8  # squared length below which a row is drawn again


class ComponentPrompts(PromptModule):
    """Every block's prefix is a sum of components, weighted by how well the query fits each.

    For each block α_m = cos(q ⊙ A_m, K_m) and p = Σ_m α_m P_m, over the components of all
    experiences; the first half of p is the key prefix, the second the value prefix. Those of
    earlier experiences are constants. New ones start orthogonal to all others
    (``orthogonal_rows``).

    Args:
        n_features: D.
        per_experience: components that an experience adds.
        length: L, rows of a component: L/2 for keys and L/2 for values.
        blocks: blocks with prefixes.
        orthogonality: μ of the penalty μ Σ_blocks (pen(K) + pen(A) + pen(P)), where pen(Z) is the
            mean of (Z Zᵀ - I)². The paper has 0.1; the published code has 0 since it starts
            orthogonal.
        seed: of the starts.

    Attributes:
        components: P of each experience, (blocks, m, L, D).
        keys: K of each experience, (blocks, m, D).
        attention: A of each experience, (blocks, m, D).

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        n_features: int,
        per_experience: int = 10,
        length: int = 8,
        blocks: Sequence[int] = (0, 1, 2, 3, 4),
        orthogonality: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(n_features, seed, tuple(blocks))
        self.per_experience = check_integer("per_experience", per_experience, 1)
        self.length = check_integer("length", length, 2)
        if self.length % 2:
            raise ValueError(
                f"Expected an even `length`, half for keys and half for values, got {length}."
            )
        self.orthogonality = check_rate("orthogonality", orthogonality, "[0, inf)")
        self.settings |= {"per_experience": self.per_experience, "length": self.length}
        self.settings["blocks"] = self.blocks
        self.components, self.keys = nn.ParameterList(), nn.ParameterList()
        self.attention = nn.ParameterList()

    @property
    def n_experiences(self) -> int:
        """Experiences that have added components."""
        return len(self.components)

    def begin_experience(self) -> None:
        """New components, orthogonal to all before; the earlier ones are frozen.

        Raises:
            ValueError: more components than D, which cannot be orthogonal.
        """
        room = self.n_features // self.per_experience
        if self.n_experiences >= room:
            raise ValueError(
                f"CODA-Prompt with per_experience={self.per_experience} has room for {room} "
                f"experiences at a width of {self.n_features}: no more keys can be orthogonal. "
                "Use a smaller per_experience."
            )
        t = self.n_experiences
        for kind, (each, shape) in enumerate(self._kinds()):
            new = []
            for b in range(len(self.blocks)):
                draw = self.drawing(t, kind, b, math.prod(shape))
                old = [part[b].detach().flatten(1) for part in each]
                rows = torch.cat([self._like.new_zeros(0, math.prod(shape)), *old])
                new.append(orthogonal_rows(rows, self.per_experience, draw))
            each.append(self.new(torch.stack(new).view(len(self.blocks), -1, *shape)))
        self._freeze_earlier()

    def _kinds(self) -> tuple[tuple[nn.ParameterList, tuple[int, ...]], ...]:
        """Components, keys and attention vectors, with the shape of one of each."""
        row = (self.n_features,)
        return (self.components, (self.length, *row)), (self.keys, row), (self.attention, row)

    def drawing(self, experience: int, kind: int, block: int, width: int) -> Callable[[], Tensor]:
        """What draws standard normal rows (width,) for an experience, a tensor and a block."""
        generator = self.generator(experience, kind, block)
        return lambda: torch.randn(width, generator=generator, dtype=torch.float64)

    def _freeze_earlier(self) -> None:
        for each, _ in self._kinds():
            for earlier in each[:-1]:
                earlier.requires_grad_(False)

    def training_parameters(self) -> list[nn.Parameter]:
        """The last experience's."""
        return [p for each, _ in self._kinds() for p in each[-1:]]

    def forward(self, query: Tensor) -> Attached:
        """Prefixes for queries (B, D), and the penalty."""
        if not self.n_experiences:
            return Attached(self.nothing(query))
        p, k, a = map(self._all, (self.components, self.keys, self.attention))
        # q ⊙ A has the norm √(q² · A²), and with K the product q · (A ⊙ K): no (B, m, D) is made.
        norms = (query.square() @ a.square().mT).clamp(min=1e-24).sqrt()  # (blocks, B, m)
        weights = query @ (a * F.normalize(k, dim=-1)).mT / norms
        summed = torch.einsum("nbm,nmld->nbld", weights, p)
        prefixes = {
            block: (both[:, : self.length // 2], both[:, self.length // 2 :])
            for block, both in zip(self.blocks, summed, strict=True)
        }
        loss = self.nothing(query)
        if self.training and self.orthogonality:
            loss = self.orthogonality * (_penalty(k) + _penalty(a) + _penalty(p.flatten(2)))
        return Attached(loss, prefixes=prefixes)

    def _all(self, each: nn.ParameterList) -> Tensor:
        """Those of all experiences (blocks, m, ...), the earlier ones as constants."""
        *earlier, last = each
        return torch.cat([*(p.detach() for p in earlier), last], dim=1)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """As many experiences as the state has, before torch fills them in."""
        saved = sum(name.startswith(f"{prefix}keys.") for name in state_dict)
        for name in ("components", "keys", "attention"):
            setattr(self, name, nn.ParameterList([*getattr(self, name)][:saved]))
        for each, shape in self._kinds():
            size = len(self.blocks), self.per_experience, *shape
            each.extend(self.new(torch.zeros(size)) for _ in range(saved - len(each)))
        self._freeze_earlier()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _penalty(rows: Tensor) -> Tensor:
    """The sum over blocks of the mean of (Z Zᵀ - I)², of rows Z (blocks, m, width)."""
    unit = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (rows @ rows.mT - unit).square().mean((1, 2)).sum()


def orthogonal_rows(old: Tensor, n: int, draw: Callable[[], Tensor]) -> Tensor:
    """Rows (n, W) of length 1, each a random one less its projections on all rows before it.

    u = v - Σ_j (v·u_j)/(u_j·u_j) u_j (classical Gram-Schmidt), where j runs over the old rows as
    they are and the new ones before they are scaled. A row that leaves nothing is drawn again.

    Args:
        old: (m, W), neither orthogonal nor of length 1.
        n: m + n of at most W.
        draw: gives a random row (W,).
    """
    rows = old.to("cpu", torch.float64)
    while len(rows) < len(old) + n:
        v = draw().to(rows)
        u = v - ((rows @ v) / rows.square().sum(1).clamp(min=_SMALL**2)) @ rows
        if float(u @ u) >= _SMALL:
            rows = torch.cat([rows, u.unsqueeze(0)])
    return F.normalize(rows[len(old) :], dim=1)
