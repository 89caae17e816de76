import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mist_avalanche.models.backbone_with_head import UNSEEN
from mist_avalanche.models.drift import AffineMap
from mist_avalanche.models.heads import PrototypeHead, RidgeHead
from mist_avalanche.models.memory import FeatureMemory, GaussianMemory
from mist_avalanche.models.ridge import choose_ridge


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


@pytest.mark.parametrize("head", [PrototypeHead(), RidgeHead(8)])
def test_refuses_nan(head):
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        head.update(torch.full((1, 3), float("nan")), torch.tensor([0]))
    assert not head.seen.any()


def ridge_head(features, labels, m=16, **kwargs):
    head = RidgeHead(m, **kwargs)
    head.update(features, labels)
    head.choose_ridge(features, labels, torch.Generator().manual_seed(0))
    head.solve()
    return head


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
    torch.testing.assert_close(
        parts.cross[:, : whole.cross.shape[1]], whole.cross, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(whole.gram, whole.gram.T)
    assert torch.linalg.eigvalsh(whole.gram).min() > -1e-9 * whole.gram.trace().clamp(min=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ridge_keeps_its_statistics_in_full_precision(dtype):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = (4 * torch.eye(3, 6)[labels] + torch.rand(60, 6, generator=g)).to(dtype)
    head = ridge_head(features, labels, dtype=torch.float32)
    assert head.gram.dtype == head.cross.dtype == head.weight.dtype == torch.float32
    assert (head(features).argmax(1) == labels).all()


@pytest.mark.parametrize("m", [0, 16, 300])
@pytest.mark.parametrize(
    "labels",
    [[0], [0, 0, 0], [0, 1, 2, 3], [2, 2, 2, 5, 5, 5], list(range(10)) * 8],
    ids=["one image", "one class", "one image a class", "three images a class", "many"],
)
def test_ridge_predicts_seen_classes_only_whatever_the_counts(m, labels):
    labels = torch.tensor(labels)
    g = torch.Generator().manual_seed(0)
    features = torch.eye(10, 12)[labels] * 5 + torch.rand(len(labels), 12, generator=g)
    head = ridge_head(features, labels, m)
    head.grow(20)
    logits = head(features)
    assert logits.shape == (len(labels), 20)
    assert set(logits.argmax(1).tolist()) <= set(labels.tolist())
    assert (logits[:, ~head.seen] == UNSEEN).all()
    assert (logits.argmax(1) == labels).all()


def test_classes_that_return_add_to_the_statistics():
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(30, 6, generator=g), torch.arange(30) % 3
    head = RidgeHead(16)
    head.update(features[:10], labels[:10])
    head.update(features[10:], labels[10:])
    assert head.counts.tolist() == [10, 10, 10]
    whole = RidgeHead(16)
    whole.update(features, labels)
    torch.testing.assert_close(head.gram, whole.gram)
    torch.testing.assert_close(head.cross, whole.cross)


def test_random_features_depend_on_the_seed_alone():
    x, y = torch.randn(4, 3), torch.arange(4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second, other = ridge_head(x, y), ridge_head(x, y), ridge_head(x, y, seed=1)
    assert torch.equal(first.projection, second.projection)
    assert not torch.equal(first.projection, other.projection)


def test_ridge_state_dict_brings_its_sizes():
    x, y = torch.randn(40, 3), torch.arange(40) % 4
    head, other = ridge_head(x, y), RidgeHead(16)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))
    assert float(other.ridge) == float(head.ridge)
    single = RidgeHead(16, dtype=torch.float32)
    single.load_state_dict(head.state_dict())
    assert single.gram.dtype == torch.float32
    with pytest.raises(ValueError, match=r"n_random_features=16"):
        RidgeHead(8).load_state_dict(head.state_dict())


def test_statistics_without_projection_move_like_their_images():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g).double(), torch.arange(40) % 4
    drift = AffineMap(torch.randn(6, 6, generator=g).double(), torch.randn(6, generator=g).double())
    moved, expected = ridge_head(x, y, 0), ridge_head(drift(x), y, 0)
    moved.move(drift)
    torch.testing.assert_close(moved.gram, expected.gram)
    torch.testing.assert_close(moved.cross, expected.cross)
    with pytest.raises(ValueError, match="without a memory"):
        ridge_head(x, y).move(drift)


@pytest.mark.parametrize("memory", [FeatureMemory, GaussianMemory])
def test_a_saved_head_moves_what_it_remembers(memory):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g), torch.arange(40) % 4
    drift = AffineMap(torch.randn(6, 6, generator=g).double(), torch.ones(6).double())
    head, other = RidgeHead(16, memory=memory()), RidgeHead(16, memory=memory())
    head.update(x, y)
    other.load_state_dict(head.state_dict())
    for one in (head, other):
        one.move(drift)
        one.update(x, y)
    assert torch.equal(head.gram, other.gram)
    assert torch.equal(head.cross, other.cross)
    assert head.counts.tolist() == other.counts.tolist() == [20] * 4
    if memory is FeatureMemory:
        expected = RidgeHead(16)
        expected.update(torch.cat([drift(x), x]), torch.cat([y, y]))
        torch.testing.assert_close(head.gram, expected.gram, rtol=1e-2, atol=0.5)


def test_a_feature_beyond_float16_leaves_the_head_as_it_was():
    head = RidgeHead(8, memory=FeatureMemory())
    head.update(torch.eye(3), torch.tensor([0, 1, 1]))
    before = {name: t.clone() for name, t in head.state_dict().items()}
    with pytest.raises(FloatingPointError, match="beyond the range of float16"):
        head.update(torch.full((2, 3), 1e6), torch.tensor([1, 4]))
    assert head.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


@pytest.mark.parametrize("per_class", [1, 2, 5, 7])
def test_few_images_a_class_take_a_share_of_their_norm(per_class):
    """The naive loop over rows; the published choice from ten a class on."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(per_class)
    features = torch.eye(4, 12)[labels] * 5 + torch.rand(len(labels), 12, generator=g)
    head = ridge_head(features, labels, 300)
    norms = [float(h.double() @ h.double()) for h in head.expand(features)]
    assert float(head.ridge) == pytest.approx(0.2 * sum(norms) / len(norms), rel=1e-6)


def test_ten_images_a_class_take_the_published_choice():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    features = torch.eye(4, 12)[labels] + torch.rand(40, 12, generator=g)
    head = ridge_head(features, labels, 300)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    targets = F.one_hot(labels[order])
    assert float(head.ridge) == choose_ridge(head.expand, 300, features[order], targets)


def test_one_image_a_class_is_told_from_the_others():
    """What the held-out part, of classes without another image, made of it: a ridge of 1e8."""
    g = torch.Generator().manual_seed(0)
    head, means = RidgeHead(500), 2 * torch.randn(20, 12, generator=g) + 4
    for classes in torch.arange(20).split(4):
        head.update(means[classes], classes)
        head.choose_ridge(means[classes], classes, torch.Generator().manual_seed(0))
    head.solve()
    assert 1 < float(head.ridge) < 1e6
    assert (head(means).argmax(1) == torch.arange(20)).all()


def test_nothing_is_remembered_of_nan_or_lost_beyond_float16():
    head = RidgeHead(8, memory=FeatureMemory())
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        head.update(torch.full((2, 3), float("nan")), torch.tensor([0, 1]))
    head.update(torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([0, 1]))
    gram = head.gram.clone()
    with pytest.raises(FloatingPointError, match="gaussians"):
        head.move(AffineMap(1e6 * torch.eye(3).double(), torch.zeros(3).double()))
    assert torch.equal(head.gram, gram)


@pytest.mark.parametrize("convert", ["half", "bfloat16"])
@pytest.mark.parametrize("made", [PrototypeHead, lambda: RidgeHead(20)])
def test_sums_keep_their_precision_where_a_model_is_converted(made, convert):
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(30, 6, generator=g), torch.arange(30) % 3
    plain, converted = made(), made()
    getattr(converted, convert)()
    for head in (plain, converted):
        head.update(features, labels)
        if isinstance(head, RidgeHead):
            head.choose_ridge(features, labels, torch.Generator().manual_seed(0))
            head.solve()
    torch.testing.assert_close(converted(features), plain(features))


def test_classes_that_are_near_each_other_are_told_apart_in_bfloat16():
    g = torch.Generator().manual_seed(0)
    means = torch.ones(8, 64) + 0.02 * torch.randn(8, 64, generator=g)
    head = PrototypeHead()
    head.update(means, torch.arange(8))
    rounded = means.bfloat16()
    expected = F.cosine_similarity(rounded.float()[:, None], means[None], dim=2).argmax(1)
    assert head(rounded).argmax(1).equal(expected)


@pytest.mark.parametrize("m", [0, 10])
def test_features_beyond_the_range_of_the_sums_change_nothing(m):
    head = RidgeHead(m, dtype=torch.float32)
    features, labels = torch.ones(4, 3), torch.tensor([0, 0, 1, 1])
    head.update(features, labels)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"too large.*dtype='float64'"):
        head.update(features * 1e25, labels)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
