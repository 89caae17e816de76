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


def ridge_head(features, labels, m=16, **kwargs):
    head = RidgeHead(m, **kwargs)
    head.update(features, labels)
    head.choose_ridge(features, labels, torch.Generator().manual_seed(0))
    head.solve()
    return head


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


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 40),
    m=st.sampled_from([0, 7, 50]),
    size=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_ridge_statistics_depend_on_neither_batches_nor_order(n, m, size, seed):
    g = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(n, 6, generator=g), torch.randint(5, (n,), generator=g)
    whole, parts = RidgeHead(m, seed=seed), RidgeHead(m, seed=seed)
    whole.update(features, labels)
    for rows in torch.randperm(n, generator=g).split(size):
        parts.update(features[rows], labels[rows])
    h = whole.expand(features).double()
    torch.testing.assert_close(whole.gram, h.T @ h, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(parts.gram, whole.gram, atol=1e-4, rtol=1e-5)
    cross = h.T @ F.one_hot(labels).double()
    torch.testing.assert_close(whole.cross, cross, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(parts.cross[:, : cross.shape[1]], cross, atol=1e-4, rtol=1e-5)
    assert parts.counts.tolist() == labels.bincount(minlength=len(parts.counts)).tolist()


@pytest.mark.parametrize("m", [0, 16, 300])
@pytest.mark.parametrize(
    "labels",
    [[0], [0, 0, 0], [0, 1, 2, 3], [2, 2, 2, 5, 5, 5], list(range(10)) * 8],
    ids=["one image", "one class", "one image per class", "three images per class", "many"],
)
def test_ridge_predicts_seen_classes_only_whatever_the_counts(m, labels):
    labels = torch.tensor(labels)
    g = torch.Generator().manual_seed(0)
    features = torch.eye(10, 12)[labels] * 5 + torch.rand(len(labels), 12, generator=g)
    head = ridge_head(features, labels, m)
    head.grow(20)
    logits = head(features)
    assert logits.shape == (len(labels), 20)
    assert (logits[:, ~head.seen] == UNSEEN).all()
    assert (logits.argmax(1) == labels).all()


def test_unseen_classes_are_never_predicted():
    head = PrototypeHead()
    assert head(torch.ones(2, 3)).shape == (2, 0)
    head.update(-torch.ones(2, 3), torch.tensor([1, 4]))
    head.grow(8)
    logits = head(torch.ones(5, 3))
    assert logits.shape == (5, 8)
    assert set(logits.argmax(1).tolist()) <= {1, 4}
    assert (logits[:, [0, 2, 3, 5, 6, 7]] == UNSEEN).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_statistics_keep_their_precision_whatever_the_features(dtype):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = (4 * torch.eye(3, 6)[labels] + torch.rand(60, 6, generator=g)).to(dtype)
    head = ridge_head(features, labels, dtype=torch.float32)
    assert head.gram.dtype == head.cross.dtype == head.weight.dtype == torch.float32
    assert (head(features).argmax(1) == labels).all()
    prototypes = PrototypeHead()
    prototypes.update(features, labels)
    assert prototypes.sums.dtype == torch.float64
    expected = F.cosine_similarity(
        features.float()[:, None], prototypes.prototypes[None].float(), 2
    )
    assert prototypes(features).argmax(1).equal(expected.argmax(1))


@pytest.mark.parametrize("made", [PrototypeHead, lambda: RidgeHead(16, memory=FeatureMemory())])
def test_a_loaded_state_brings_its_sizes_and_goes_on(made):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g), torch.arange(40) % 4
    drift = AffineMap(torch.randn(6, 6, generator=g).double(), torch.ones(6).double())
    head, other = made(), made()
    head.update(x, y)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))
    for one in (head, other):
        one.move(drift)
        one.update(x, y)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert head.counts.tolist() == [20] * 4


def test_a_ridge_head_moves_what_its_memory_holds():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g), torch.arange(40) % 4
    drift = AffineMap(torch.randn(6, 6, generator=g).double(), torch.ones(6).double())
    head, expected = RidgeHead(16, memory=FeatureMemory()), RidgeHead(16)
    head.update(x, y)
    head.move(drift)
    expected.update(drift(x), y)
    torch.testing.assert_close(head.gram, expected.gram, rtol=1e-2, atol=0.5)
    torch.testing.assert_close(head.cross, expected.cross, rtol=1e-2, atol=0.5)
    with pytest.raises(ValueError, match="memory"):
        expected.move(drift)


@pytest.mark.parametrize("made", [PrototypeHead, lambda: RidgeHead(8, memory=FeatureMemory())])
def test_features_that_are_not_finite_change_nothing(made):
    head = made()
    head.update(torch.eye(3), torch.tensor([0, 1, 1]))
    before = {name: t.clone() for name, t in head.state_dict().items()}
    for value in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match="NaN or Inf"):
            head.update(torch.full((2, 3), value), torch.tensor([1, 4]))
    with pytest.raises(ValueError, match="labels from 0 on, got -1"):
        head.update(torch.eye(3), torch.tensor([0, 1, -1]))
    assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


@pytest.mark.parametrize("per_class", [1, 2, 5, 7])
def test_few_images_per_class_take_a_share_of_their_norm(per_class):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(per_class)
    features = torch.eye(4, 12)[labels] * 5 + torch.rand(len(labels), 12, generator=g)
    head = ridge_head(features, labels, 300)
    norms = [float(h.double() @ h.double()) for h in head.expand(features)]
    assert float(head.ridge) == pytest.approx(0.2 * sum(norms) / len(norms), rel=1e-6)


def test_ten_images_per_class_take_the_published_choice():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    features = torch.eye(4, 12)[labels] + torch.rand(40, 12, generator=g)
    head = ridge_head(features, labels, 300)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    targets = F.one_hot(labels[order])
    assert float(head.ridge) == choose_ridge(head.expand, 300, features[order], targets)
