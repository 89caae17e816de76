import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mist_avalanche.heads import UNSEEN, PrototypeHead


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), size=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_prototypes_are_class_means_however_batched(n, size, seed):
    g = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(n, 6, generator=g), torch.randint(5, (n,), generator=g)
    head = PrototypeHead()
    for f, y in zip(features.split(size), labels.split(size), strict=True):
        head.update(f, y)
    for c in labels.unique().tolist():
        mean = features[labels == c].double().mean(0)
        torch.testing.assert_close(head.prototypes[c], mean, atol=1e-12, rtol=0)
        expected = F.cosine_similarity(features.double(), mean[None])
        torch.testing.assert_close(head(features)[:, c].double(), expected, atol=1e-5, rtol=0)


def test_unseen_classes_are_never_predicted():
    head = PrototypeHead()
    head.update(-torch.ones(2, 3), torch.tensor([1, 4]))
    head.grow(8)
    logits = head(torch.ones(5, 3))
    assert logits.shape == (5, 8)
    assert set(logits.argmax(1).tolist()) <= {1, 4}
    assert (logits[:, [0, 2, 3, 5, 6, 7]] == UNSEEN).all()


def test_state_dict_brings_its_classes():
    head = PrototypeHead()
    head.update(torch.randn(4, 3), torch.tensor([0, 2, 2, 1]))
    other = PrototypeHead()
    other.load_state_dict(head.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(other(x), head(x))


def test_refuses_nan():
    head = PrototypeHead()
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        head.update(torch.full((1, 3), float("nan")), torch.tensor([0]))
    assert not head.seen.any()
