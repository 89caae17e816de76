"""Base class of prompt modules, which map queries to prompts and grow with the experiences."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...utils import derive_seed

Prefix = tuple[Tensor, Tensor]  # (B, L, D) each, in front of the keys and values of a block


@dataclass(frozen=True)
class PromptOutput:
    """The prompts of a batch."""

    loss: Tensor  # scalar, added to the cross-entropy; 0 in evaluation
    tokens: Tensor | None = None  # (B, L, D), which pass through all blocks with image tokens
    prefixes: Mapping[int, Prefix] = field(default_factory=dict)  # by block
    ids: Tensor | None = None  # (B, N) ids of the chosen prompts
    similarity: Tensor | None = None  # (B, M) cosines of queries and keys


class PromptModule(nn.Module, ABC):
    """Maps queries to the prompts of a ViT of width D.

    Whatever grows is an ``nn.ParameterList`` with one parameter per experience, of which only the
    last is trained. ``load_state_dict`` creates as many parameters as were saved.

    Args:
        n_features: D.
        seed: seed of all random draws, which are made on the CPU, separately per experience.
    """

    _like: Tensor  # defines the dtype and device of new parameters

    def __init__(self, n_features: int, seed: int) -> None:
        super().__init__()
        self.n_features, self.seed = n_features, seed
        self.register_buffer("_like", torch.zeros(0), persistent=False)

    @abstractmethod
    def forward(self, query: Tensor) -> PromptOutput:
        """Prompts for queries (B, D); how they are chosen may depend on ``self.training``."""

    def begin_experience(self) -> None:
        """Add the prompts of one experience, and freeze those of earlier ones."""

    def freeze_earlier(self) -> None:
        """Freeze all parameters of each list except that of the last experience."""
        for parameters in self.children():
            for earlier in list(parameters.parameters())[:-1]:
                earlier.requires_grad_(False)

    def new(self, values: Tensor) -> nn.Parameter:
        """A parameter with this module's dtype and device."""
        return nn.Parameter(values.to(self._like))

    def uniform(self, *shape: int, generator: torch.Generator) -> nn.Parameter:
        """A parameter drawn from U(-1, 1)."""
        return self.new(2 * torch.rand(*shape, generator=generator) - 1)

    def generator(self, *path: int) -> torch.Generator:
        """A random generator for one purpose."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *path))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Create one parameter per saved experience, for torch to fill in."""
        for name, _ in list(self.named_children()):
            saved = (v for key, v in state_dict.items() if key.startswith(f"{prefix}{name}."))
            setattr(self, name, nn.ParameterList(self.new(torch.zeros_like(v)) for v in saved))
        self.freeze_earlier()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (n, m) of rows (n, D) and rows (m, D); norms below 1e-6 count as 1e-6."""
    a, b = (F.normalize(rows, dim=-1, eps=1e-6) for rows in (a, b))
    return a @ b.T


def choose_blocks(
    name: str, blocks: Sequence[int] | None, depth: int, *, published: Sequence[int]
) -> tuple[int, ...]:
    """The blocks that argument ``name`` selects; for None, the published ones that the ViT has.

    Raises:
        ValueError: no block is selected, or the ViT, with ``depth`` blocks, does not have them.
    """
    chosen = sorted({b for b in published if b < depth} if blocks is None else {*blocks})
    if not chosen or not {*chosen} <= {*range(depth)}:
        raise ValueError(
            f"Expected `{name}` to be blocks of this ViT, 0 to {depth - 1}, got {chosen}."
        )
    return tuple(chosen)
