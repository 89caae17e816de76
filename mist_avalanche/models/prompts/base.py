"""What a prompt module is: queries to prompts, growing with the experiences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._support.randomness import derive_seed

Prefix = tuple[Tensor, Tensor]  # keys and values, (B, L, D) each


@dataclass(frozen=True)
class Attached:
    """What a prompt module has for a batch.

    Args:
        loss: to be added to the cross-entropy, a scalar; 0 in evaluation.
        tokens: (B, L, D) that go through all blocks beside the image's; None for none.
        prefixes: by block, what is put in front of its keys and values.
        ids: (B, N) prompts that were chosen; None where nothing is.
        similarity: (B, M) of queries and keys; None where nothing is compared.
    """

    loss: Tensor
    tokens: Tensor | None = None
    prefixes: Mapping[int, Prefix] = field(default_factory=lambda: MappingProxyType({}))
    ids: Tensor | None = None
    similarity: Tensor | None = None


class PromptModule(nn.Module, ABC):
    """Prompts of a ViT of width D.

    ``load_state_dict`` grows to the experiences of the saved state.

    Args:
        n_features: D.
        seed: of all that is drawn, on the CPU, from a generator of its own for each experience.

    Attributes:
        blocks: numbers of the blocks that get prefixes.
        settings: arguments that make the module again, but for the seed.
    """

    _like: Tensor  # gives new parameters their dtype and device

    def __init__(self, n_features: int, seed: int, blocks: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.n_features, self.seed, self.blocks = n_features, seed, blocks
        self.settings: dict[str, Any] = {"n_features": n_features}
        self.register_buffer("_like", torch.zeros(0), persistent=False)

    @property
    @abstractmethod
    def n_experiences(self) -> int:
        """How many experiences there have been, as far as the module has to know."""

    @abstractmethod
    def begin_experience(self) -> None:
        """Grow by an experience's share; what is old and does not train any more is frozen."""

    @abstractmethod
    def training_parameters(self) -> list[nn.Parameter]:
        """Those that train in the present experience."""

    @abstractmethod
    def forward(self, query: Tensor) -> Attached:
        """Prompts for queries (B, D); ``self.training`` says which rule holds."""

    def generator(self, *path: int) -> torch.Generator:
        """Random numbers for a purpose."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *path))

    def new(self, values: Tensor) -> nn.Parameter:
        """A parameter with this module's dtype and device."""
        return nn.Parameter(values.to(self._like))

    def uniform(self, *shape: int, generator: torch.Generator) -> nn.Parameter:
        """A parameter drawn from U(-1, 1)."""
        return self.new(2 * torch.rand(*shape, generator=generator) - 1)

    def nothing(self, query: Tensor) -> Tensor:
        """A loss of 0."""
        return query.new_zeros(())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (n, m) of rows (n, D) and rows (m, D), norms below 1e-6 counting as 1e-6."""
    a, b = (F.normalize(rows, dim=-1, eps=1e-6) for rows in (a, b))
    return a @ b.T


def check_blocks(name: str, blocks: Any, depth: int) -> tuple[int, ...]:
    """Block numbers that a ViT has, each once, in order, or ValueError."""
    found = tuple(blocks)
    whole = all(isinstance(b, int) and not isinstance(b, bool) for b in found)
    if not whole or not all(0 <= b < depth for b in found) or len({*found}) != len(found):
        raise ValueError(
            f"Expected `{name}` to be different numbers from 0 to {depth - 1}, the blocks that "
            f"this ViT has, got {list(found)}."
        )
    return tuple(sorted(found))
