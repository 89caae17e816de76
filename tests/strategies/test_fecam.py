"""FeCAM's distances, against a slow reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.models.backbone_with_head import UNSEEN
from mist_avalanche.models.mahalanobis_head import MahalanobisHead
from mist_avalanche.strategies import FeCAM
from mist_avalanche.strategies.registry import find


def head_of(features, labels, *shrinkage, size=None, dtype=torch.float64):
    head = MahalanobisHead(*(shrinkage or (1.0, 0.0)), dtype)
    size = size or len(features)
    for f, y in zip(features.split(size), labels.split(size), strict=True):
        head.update(f, y)
    return head


def slow_distance(own, f, gamma1, gamma2):
    """Of one image f (D,) to a class with features own (n, D), in numpy and by loops."""
    sigma, d = np.cov(own.T), len(f)
    others = [sigma[i, j] for i in range(d) for j in range(d) if i != j and sigma[i, j] != 0]
    m_d, m_o = np.mean(np.diag(sigma)), np.mean(others)
    for i in range(d):
        for j in range(d):
            sigma[i, j] += gamma1 * m_d if i == j else gamma2 * m_o
    root = np.sqrt(np.diag(sigma))
    difference = f - own.mean(0)
    return difference @ np.linalg.pinv(sigma / np.outer(root, root)) @ difference


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 40), seed=st.integers(0, 10**6), gamma2=st.sampled_from([0.0, 0.3]))
def test_distances_are_those_of_all_features_however_they_come(size, seed, gamma2):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(40, 6, generator=g, dtype=torch.float64)
    labels = torch.arange(40) % 3
    head = head_of(features, labels, 1.0, gamma2, size=size)
    f = F.normalize(features, dim=1).numpy()
    expected = [[slow_distance(f[labels == y], x, 1.0, gamma2) for y in range(3)] for x in f]
    torch.testing.assert_close(head(features), -torch.tensor(expected), rtol=1e-9, atol=1e-12)
    single = head_of(features.float(), labels, 1.0, gamma2, size=size, dtype=torch.float32)
    found = single(features.bfloat16().float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), head(features), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("n", [1, 3])
def test_a_class_whose_images_are_all_the_same_has_the_euclidean_distance(n):
    features = torch.eye(4, dtype=torch.float64)[[0] * n + [1] * n]
    head = head_of(features, torch.tensor([0] * n + [3] * n), 10.0, 10.0)
    expected = torch.tensor([[0.0, UNSEEN, UNSEEN, -2.0], [-2.0, UNSEEN, UNSEEN, 0.0]])
    torch.testing.assert_close(head(features[[0, -1]]), expected.double())


def test_a_metric_that_is_none_is_refused():
    features = torch.eye(2, 8)[[0, 0, 1, 1]] + 0.1 * torch.rand(4, 8)
    with pytest.raises(ValueError, match=r"No metric for class 2.*`off_diagonal_shrinkage`"):
        head_of(features, torch.full((4,), 2), 0.01, 10.0)


def test_features_that_are_not_finite_change_nothing():
    head = head_of(torch.eye(3), torch.tensor([0, 1, 1]))
    before = {name: t.clone() for name, t in head.state_dict().items()}
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        head.update(torch.full((2, 3), float("inf")), torch.tensor([1, 4]))
    assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


def test_a_state_in_float64_stays_in_float64(benchmark_of):
    made, features = [], torch.rand(5, 96, dtype=torch.float64)
    for _ in range(2):
        made.append(FeCAM(model=create_backbone().double(), evaluator=None))
    made[0].head.update(features, torch.tensor([0, 0, 0, 1, 1]))
    made[1].load_state_dict(made[0].state_dict())
    assert torch.equal(*(strategy.head(features) for strategy in made))
    assert made[1].head.inverse.dtype == torch.float64


def test_joined_features_and_what_is_refused(benchmark_of):
    stream = benchmark_of().train_stream
    strategy = FeCAM(model=create_backbone(), joined=True, evaluator=None)
    strategy.train(stream)
    assert strategy.head.means.shape == (4, 192)
    for name in ("diagonal_shrinkage", "off_diagonal_shrinkage"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            FeCAM(model=create_backbone(), **{name: -1})
    assert not find("fecam").has_drift
    mist = MISTPlugin(tune_on="every", tune_epochs=1, verbose=False)
    with pytest.raises(ValueError, match=r"FeCAM cannot follow .*tune_on='first'"):
        FeCAM(model=create_backbone(), plugins=[mist], evaluator=None).train(stream[0])
