import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mist_avalanche.models.backbone_with_head import UNSEEN
from mist_avalanche.models.drift import AffineMap
from mist_avalanche.models.heads import PrototypeHead, RidgeHead
from mist_avalanche.models.memory import FeatureMemory
from mist_avalanche.models.ridge import choose_ridge

BOTH = pytest.mark.parametrize(
    "made", [PrototypeHead, lambda: RidgeHead(16, memory=FeatureMemory())]
)
BATCHES = {"n": st.integers(1, 40), "size": st.integers(1, 40), "seed": st.integers(0, 10**6)}


def data(n, n_classes, seed=0, width=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=g), torch.randint(n_classes, (n,), generator=g)


def separable(labels, width=12):
    """Features that tell their labels apart."""
    labels = torch.as_tensor(labels)
    g = torch.Generator().manual_seed(0)
    return torch.eye(10, width)[labels] * 5 + torch.rand(len(labels), width, generator=g), labels


def ridge_head(features, labels, m=16, **kwargs):
    head = RidgeHead(m, **kwargs)
    head.update(features, labels)
    head.choose_ridge(features, labels, torch.Generator().manual_seed(0))
    head.solve()
    return head


@settings(deadline=None, max_examples=30)
@given(**BATCHES)
def test_prototypes_are_class_means_however_batched(n, size, seed):
    features, labels = data(n, 5, seed)
    head = PrototypeHead()
    for f, y in zip(features.split(size), labels.split(size), strict=True):
        head.update(f, y)
    for c in labels.unique().tolist():
        mean = features[labels == c].double().mean(0)
        torch.testing.assert_close(head.prototypes[c], mean, atol=1e-12, rtol=0)
        expected = F.cosine_similarity(features.double(), mean[None])
        torch.testing.assert_close(head(features)[:, c].double(), expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=30)
@given(m=st.sampled_from([0, 7, 50]), **BATCHES)
def test_ridge_statistics_depend_on_neither_batches_nor_order(n, m, size, seed):
    features, labels = data(n, 5, seed)
    whole, parts = RidgeHead(m, seed=seed), RidgeHead(m, seed=seed)
    whole.update(features, labels)
    for rows in torch.randperm(n, generator=torch.Generator().manual_seed(seed)).split(size):
        parts.update(features[rows], labels[rows])
    h = whole.expand(features).double()
    cross = h.T @ F.one_hot(labels).double()
    torch.testing.assert_close(whole.gram, h.T @ h, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(whole.cross, cross, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(parts.gram, whole.gram, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(parts.cross[:, : cross.shape[1]], cross, atol=1e-4, rtol=1e-5)
    assert parts.counts.tolist() == labels.bincount(minlength=len(parts.counts)).tolist()


@pytest.mark.parametrize("m", [None, 0, 16, 300], ids=str)
@pytest.mark.parametrize(
    "labels",
    [[0], [0, 0, 0], [0, 1, 2, 3], [2, 2, 2, 5, 5, 5], list(range(10)) * 8],
    ids=["one image", "one class", "one image per class", "three images per class", "many"],
)
def test_seen_classes_only_are_predicted_whatever_the_counts(m, labels):
    features, labels = separable(labels)
    head = PrototypeHead() if m is None else ridge_head(features, labels, m)
    if m is None:
        assert head(features).shape == (len(labels), 0)
        head.update(features, labels)
    head.grow(20)
    logits = head(features)
    assert logits.shape == (len(labels), 20)
    assert (logits[:, ~head.seen] == UNSEEN).all()
    assert (logits.argmax(1) == labels).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_statistics_keep_their_precision_whatever_the_features(dtype):
    features, labels = separable([0, 1, 2] * 20)
    head = ridge_head(features.to(dtype), labels, dtype=torch.float32)
    assert head.gram.dtype == head.cross.dtype == head.weight.dtype == torch.float32
    prototypes = PrototypeHead()
    prototypes.update(features.to(dtype), labels)
    assert prototypes.sums.dtype == torch.float64
    for made in (head, prototypes):
        assert (made(features.to(dtype)).argmax(1) == labels).all()


@BOTH
def test_a_loaded_state_brings_its_sizes_and_goes_on(made):
    x, y = data(40, 4)
    drift = AffineMap(data(6, 1)[0].double(), torch.ones(6).double())
    head, other = made(), made()
    head.update(x, y)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))
    for one in (head, other):
        one.move(drift)
        one.update(x, y)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert head.counts.tolist() == (2 * y.bincount()).tolist()


def test_a_ridge_head_moves_what_its_memory_holds():
    x, y = data(40, 4)
    drift = AffineMap(data(6, 1)[0].double(), torch.ones(6).double())
    head, expected = RidgeHead(16, memory=FeatureMemory()), RidgeHead(16)
    head.update(x, y)
    head.move(drift)
    expected.update(drift(x), y)
    torch.testing.assert_close(head.gram, expected.gram, rtol=1e-2, atol=0.5)
    torch.testing.assert_close(head.cross, expected.cross, rtol=1e-2, atol=0.5)
    with pytest.raises(ValueError, match="memory"):
        expected.move(drift)


@BOTH
def test_features_that_are_not_finite_change_nothing(made):
    head = made()
    head.update(torch.eye(3), torch.tensor([0, 1, 1]))
    before = {name: t.clone() for name, t in head.state_dict().items()}
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        head.update(torch.full((2, 3), float("inf")), torch.tensor([1, 4]))
    assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


def test_a_memory_beyond_float16_is_refused_where_it_is_used():
    head = RidgeHead(0, memory=FeatureMemory())
    head.update(torch.tensor([[1e6, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    head.move(AffineMap(torch.eye(2).double(), torch.zeros(2).double()))
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        head.solve()


@pytest.mark.parametrize("per_class", [1, 2, 7, 10])
def test_the_ridge_is_the_published_choice_or_with_few_images_a_share_of_their_norm(per_class):
    features, labels = separable(list(range(4)) * per_class)
    head = ridge_head(features, labels, 300)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    expected = 0.2 * float(head.expand(features).double().square().sum(1).mean())
    if per_class == 10:
        targets = F.one_hot(labels[order])
        expected = choose_ridge(head.expand, 300, features[order], targets)
    assert float(head.ridge) == pytest.approx(expected, rel=1e-6)
