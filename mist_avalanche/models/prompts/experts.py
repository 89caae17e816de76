"""DualPrompt's general and expert prefixes (Wang et al., arXiv 2204.04799)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...utils import check_integer, check_rate
from .base import PromptModule, PromptOutput, cosine


class GeneralExpertPrompts(PromptModule):
    """Prefixes that all experiences share, and one expert per experience, found by its key.

    In training, every image uses the expert of the current experience t, and the loss is
    -λ cos(q, κ_t), averaged over images. In evaluation, an image uses the expert with the nearest
    key. A new expert starts as a copy of the last one; its key, the first expert and the general
    prefixes start from U(-1, 1). In a block with both, the general prefix comes first.

    ``key_loss_weight`` is λ; see :class:`~mist_avalanche.strategies.DualPrompt`.
    """

    def __init__(
        self,
        n_features: int,
        *,
        general_length: int = 5,
        expert_length: int = 5,
        general_blocks: Sequence[int] = (0, 1),
        expert_blocks: Sequence[int] = (2, 3, 4),
        key_loss_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(n_features, seed)
        general_length = check_integer("general_length", general_length, 0)
        self.expert_length = check_integer("expert_length", expert_length, 0)
        self.general_blocks, self.expert_blocks = tuple(general_blocks), tuple(expert_blocks)
        self.key_loss_weight = check_rate("key_loss_weight", key_loss_weight, "[0, inf)")
        shape = len(self.general_blocks), 2, general_length, n_features  # keys and values
        self.general = self.uniform(*shape, generator=self.generator(0))
        self.experts = nn.ParameterList()  # of each experience (blocks, 2, Le, D)
        self.keys = nn.ParameterList()  # of each experience (D,)

    def begin_experience(self) -> None:
        """Add a copy of the last expert, with a new key; freeze the earlier ones."""
        generator = self.generator(1, len(self.experts))
        self.keys.append(self.uniform(self.n_features, generator=generator))
        shape = len(self.expert_blocks), 2, self.expert_length, self.n_features
        if len(self.experts):
            self.experts.append(self.new(self.experts[-1].detach().clone()))
        else:
            self.experts.append(self.uniform(*shape, generator=generator))
        self.freeze_earlier()

    def forward(self, query: Tensor) -> PromptOutput:
        """Prefixes for queries (B, D) (none before the first experience), and the experts' ids."""
        if not len(self.experts):
            return PromptOutput(query.new_zeros(()))
        similarity = cosine(query, torch.stack([*self.keys]))  # (B, T)
        if self.training:
            current = len(self.experts) - 1
            ids = torch.full_like(similarity[:, :1], current, dtype=torch.int64)
            loss = -self.key_loss_weight * similarity[:, current].mean()
            experts = self.experts[current].expand(len(query), -1, -1, -1, -1)
        else:
            ids = similarity.argmax(1, keepdim=True)
            loss = query.new_zeros(())
            experts = torch.stack([*self.experts])[ids[:, 0]]  # (B, blocks, 2, Le, D)

        general = self.general.unsqueeze(1).expand(-1, len(query), -1, -1, -1)
        prefixes = dict(zip(self.general_blocks, general, strict=True))  # (B, 2, L, D) each
        for block, expert in zip(self.expert_blocks, experts.unbind(1), strict=True):
            first = [prefixes[block]] if block in prefixes else []
            prefixes[block] = torch.cat([*first, expert], dim=2)
        return PromptOutput(
            loss,
            prefixes={block: (p[:, 0], p[:, 1]) for block, p in prefixes.items()},
            ids=ids,
            similarity=similarity,
        )
