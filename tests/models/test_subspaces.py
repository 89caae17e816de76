import pytest
import torch
from torch.nn import functional as F

from mist_avalanche.models.subspaces import SubspaceHead


@pytest.mark.parametrize("beta", [None, 1.0])
@pytest.mark.parametrize("complement", ["all", "newest"])
def test_the_subspace_head_is_the_formula(beta, complement):
    """Also where class 1 comes back in the third of four experiences."""
    generator = torch.Generator().manual_seed(0)
    head, first, seen = SubspaceHead(0.2, beta, complement), 0 if beta is None else 1, {}
    own, prototypes = {}, {}  # by class, and by block and class
    for t, classes in enumerate([[0, 1, 2], [4, 3], [5, 1], [6, 7, 8]]):
        newest, y = t + first, torch.tensor(classes).repeat_interleave(3)
        features = torch.randn(len(y), newest + 1, 6, generator=generator, dtype=torch.float64)
        head.add_subspace(features, y)
        for f, c in zip(features, y.tolist(), strict=True):
            own.setdefault(c, newest)
            for b in range(newest + 1):
                seen.setdefault((b, c), []).append(f[b])
        prototypes |= {key: torch.stack(found).mean(0) for key, found in seen.items()}
        for b in range(newest + 1) if complement == "all" else [newest]:
            for c in own.keys() - {c for block, c in seen if block == b}:
                others = [r for r in own if (b, r) in seen and (own[c], r) in seen]
                there = prototypes[own[c], c]
                similarity = [F.cosine_similarity(there, prototypes[own[c], r], 0) for r in others]
                shares = torch.stack(similarity).softmax(0)
                prototypes[b, c] = sum(
                    a * prototypes[b, r] for a, r in zip(shares, others, strict=True)
                )
    x = torch.randn(4, newest + 1, 6, generator=generator, dtype=torch.float64)
    logits = torch.zeros(4, 9, dtype=torch.float64)
    for (b, c), prototype in prototypes.items():
        torch.testing.assert_close(head.prototypes[b, c], prototype)
        w = beta if b < first else 1 if b == own[c] else 0.2 / t
        logits[:, c] += w * F.cosine_similarity(x[:, b], prototype[None])
    torch.testing.assert_close(head(x), logits)
