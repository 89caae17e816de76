"""L2P's pool of prompt tokens (Wang et al., arXiv 2112.08654)."""

import torch
from torch import Tensor

from ...utils import check_integer, check_rate
from .base import PromptModule, PromptOutput, cosine


class PromptPool(PromptModule):
    """M prompts of Lp tokens, each with a key; an image uses the N with the largest s = cos(q, κ).

    The loss is -λ Σ_chosen s, averaged over images. All experiences share the pool.

    Prompts and keys start from U(-1, 1). ``size``, ``length`` and ``top_k`` are M, Lp and N, and
    ``key_loss_weight`` is λ; see :class:`~mist_avalanche.strategies.L2P`.
    """

    def __init__(
        self,
        n_features: int,
        *,
        size: int = 10,
        length: int = 5,
        top_k: int = 5,
        key_loss_weight: float = 0.1,
        batchwise: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(n_features, seed)
        size, length = check_integer("size", size, 1), check_integer("length", length, 1)
        self.top_k = check_integer("top_k", top_k, 1)
        if self.top_k > size:
            raise ValueError(f"Expected `top_k` of at most size={size}, got {top_k}.")
        self.key_loss_weight = check_rate("key_loss_weight", key_loss_weight, "[0, inf)")
        self.batchwise = batchwise
        generator = self.generator()
        self.prompts = self.uniform(size, length, n_features, generator=generator)  # (M, Lp, D)
        self.keys = self.uniform(size, n_features, generator=generator)  # (M, D)

    def forward(self, query: Tensor) -> PromptOutput:
        """Tokens (B, N·Lp, D) for queries (B, D), the key loss, and the ids (B, N)."""
        similarity = cosine(query, self.keys)  # (B, M)
        ids = _largest(similarity, self.top_k)
        loss = query.new_zeros(())
        if self.training:
            if self.batchwise:
                votes = torch.bincount(ids.flatten(), minlength=len(self.keys))
                ids = _largest(votes.unsqueeze(0), self.top_k).expand(len(query), -1)
            loss = -self.key_loss_weight * similarity.gather(1, ids).sum(1).mean()
        tokens = self.prompts[ids].flatten(1, 2)
        return PromptOutput(loss, tokens=tokens, ids=ids, similarity=similarity)


def _largest(scores: Tensor, k: int) -> Tensor:
    """Columns (B, k) of the largest scores (B, M); the first ones if scores are equal."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
