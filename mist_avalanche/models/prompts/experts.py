"""DualPrompt's general and expert prefixes (Wang et al., arXiv 2204.04799)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.checks import check_integer, check_rate
from .base import Attached, Prefix, PromptModule, cosine


class GeneralExpertPrompts(PromptModule):
    """Prefixes that all experiences share, and an expert of each experience, found by its key.

    In training every image has the expert of the present experience, and the loss pulls its key
    to the queries: -λ cos(q, κ_t), averaged over images. In evaluation an image has the expert with
    the nearest key, of those that there are. A new expert starts as a copy of the last one, its key
    from U(-1, 1), as the general prefixes do. On a block with both, the general ones come first.

    Args:
        n_features: D.
        general_length: Lg, of the key prefix and of the value prefix each.
        expert_length: Le, likewise.
        general_blocks: blocks with general prefixes.
        expert_blocks: blocks with expert prefixes.
        pull: λ.
        seed: of the start.

    Attributes:
        general: (blocks, 2, Lg, D), key and value prefixes.
        experts: of each experience (blocks, 2, Le, D).
        keys: of each experience (D,).

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        n_features: int,
        general_length: int = 5,
        expert_length: int = 5,
        general_blocks: Sequence[int] = (0, 1),
        expert_blocks: Sequence[int] = (2, 3, 4),
        pull: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.general_blocks, self.expert_blocks = tuple(general_blocks), tuple(expert_blocks)
        blocks = tuple(sorted({*self.general_blocks, *self.expert_blocks}))
        super().__init__(n_features, seed, blocks)
        general_length = check_integer("general_length", general_length, 0)
        self.expert_length = check_integer("expert_length", expert_length, 0)
        self.pull = check_rate("pull", pull, "[0, inf)")
        self.settings |= {
            **{"general_length": general_length, "expert_length": self.expert_length},
            **{"general_blocks": self.general_blocks, "expert_blocks": self.expert_blocks},
        }
        shape = len(self.general_blocks), 2, general_length, n_features
        self.general = self.uniform(*shape, generator=self.generator(0))
        self.experts, self.keys = nn.ParameterList(), nn.ParameterList()

    @property
    def n_experiences(self) -> int:
        """Experts that there are."""
        return len(self.experts)

    def begin_experience(self) -> None:
        """A copy of the last expert, with a key of its own; the earlier ones are frozen."""
        generator = self.generator(1, self.n_experiences)
        key = self.uniform(self.n_features, generator=generator)
        shape = len(self.expert_blocks), 2, self.expert_length, self.n_features
        expert = self.uniform(*shape, generator=generator)
        if self.n_experiences:
            expert = self.new(self.experts[-1].detach().clone())
        self.experts.append(expert)
        self.keys.append(key)
        self._freeze_earlier()

    def _freeze_earlier(self) -> None:
        for earlier in (*self.experts[:-1], *self.keys[:-1]):
            earlier.requires_grad_(False)

    def training_parameters(self) -> list[nn.Parameter]:
        """The general prefixes, and the last expert with its key."""
        return [self.general, *self.experts[-1:], *self.keys[-1:]]

    def forward(self, query: Tensor) -> Attached:
        """Prefixes for queries (B, D), the pull, and the expert's ids (B, 1)."""
        of_block: dict[int, list[Tensor]] = {block: [] for block in self.blocks}
        for block, general in zip(self.general_blocks, self.general, strict=True):
            of_block[block].append(general.expand(len(query), -1, -1, -1))
        loss, ids, similarity = self.nothing(query), None, None
        if self.n_experiences:
            similarity = cosine(query, torch.stack([*self.keys]))  # (B, T)
            last = self.n_experiences - 1
            if self.training:
                ids = torch.full_like(similarity[:, :1], last, dtype=torch.int64)
                loss = -self.pull * similarity[:, last].mean()
                chosen = self.experts[last].expand(len(query), -1, -1, -1, -1)
            else:
                ids = similarity.argmax(1, keepdim=True)
                chosen = torch.stack([*self.experts])[ids[:, 0]]  # (B, blocks, 2, Le, D)
            for i, block in enumerate(self.expert_blocks):
                of_block[block].append(chosen[:, i])
        prefixes: dict[int, Prefix] = {}
        for block, parts in of_block.items():
            if parts:
                keys, values = torch.cat(parts, dim=2).unbind(1)  # (B, L, D) each
                prefixes[block] = keys, values
        return Attached(loss, prefixes=prefixes, ids=ids, similarity=similarity)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """As many experts as the state has, before torch fills them in."""
        saved = sum(name.startswith(f"{prefix}keys.") for name in state_dict)
        self.experts = nn.ParameterList([*self.experts][:saved])
        self.keys = nn.ParameterList([*self.keys][:saved])
        while self.n_experiences < saved:
            self.begin_experience()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
