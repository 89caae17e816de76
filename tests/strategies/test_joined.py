"""Features of the backbone as it was given and as it is tuned, side by side."""

import copy

import pytest
import torch
from test_ranpac import features_of
from torch.nn import functional as F

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL

BOTH = pytest.mark.parametrize(
    ("kind", "settings"), [(SimpleCIL, {}), (RanPAC, {"n_random_features": 64})]
)


def tuned(kind, stream, *, mist=True, tune_on="first", **settings):
    plugins = []
    if mist:
        options = {"tune_epochs": 2, "lr": 0.05, "seed": 0, "verbose": False}
        plugins = [MISTPlugin(tune_on=tune_on, **options)]
    strategy = kind(model=create_backbone(), plugins=plugins, evaluator=None, **settings)
    strategy.train(stream)
    return strategy


@BOTH
def test_features_are_the_two_backbones_side_by_side(kind, settings, benchmark_of):
    stream = benchmark_of().train_stream
    alone = tuned(kind, stream, **settings)
    strategy = tuned(kind, stream, joined=True, **settings)
    (mist,) = strategy.plugins[:1]
    assert 0 < mist.selection.fraction <= 0.05
    given, now = create_backbone().eval(), strategy.backbone
    for name, weight in alone.backbone.state_dict().items():  # the same tuning, bit for bit
        assert torch.equal(now.state_dict()[name], weight)
    for name, weight in given.state_dict().items():
        assert torch.equal(strategy.model.pretrained.state_dict()[name], weight)
    x = torch.stack([stream[0].dataset.eval()[i][0] for i in range(4)])
    with torch.no_grad():
        expected = torch.cat([F.normalize(given(x)), F.normalize(now.eval()(x))], 1)
        torch.testing.assert_close(strategy.model.eval().features(x), expected)
        assert not torch.equal(*expected.chunk(2, 1))


def test_without_tuning_they_classify_as_one_backbone(benchmark_of):
    benchmark = benchmark_of()
    x, _ = features_of(torch.nn.Identity(), benchmark.test_stream)
    cosines = []
    for joined in (False, True):
        strategy = tuned(SimpleCIL, benchmark.train_stream, mist=False, joined=joined)
        features, labels = features_of(strategy.backbone, benchmark.train_stream)
        if joined:  # the mean of normalised features
            features = F.normalize(features)
        means = torch.stack([features[labels == c].mean(0) for c in range(4)])
        probe = F.normalize(strategy.backbone(x), dim=1)
        cosines.append((strategy.model(x), probe @ F.normalize(means, dim=1).T))
    for found, expected in cosines:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@BOTH
def test_drift_moves_the_tuned_half_alone(kind, settings, benchmark_of):
    stream = benchmark_of().train_stream
    settings = {**settings, "joined": True}
    strategy = kind(
        model=create_backbone(),
        plugins=[MISTPlugin(tune_epochs=2, lr=0.05, seed=0, verbose=False)],
        evaluator=None,
        drift_compensation=True,
        **settings,
    )
    strategy.train(stream[0])
    before = copy.deepcopy(strategy.head)
    strategy.train(stream[1])
    if kind is SimpleCIL:
        old, new = before.prototypes[:2], strategy.head.prototypes[:2]
    else:
        old, new = before.memory.recall()[0], strategy.head.memory.recall()[0][:16]
    half = old.shape[1] // 2
    torch.testing.assert_close(new[:, :half], old[:, :half], atol=2e-3, rtol=0)
    assert (new[:, half:] - old[:, half:]).norm() > 20 * (new[:, :half] - old[:, :half]).norm()


def test_a_first_session_has_features_of_its_own():
    with pytest.raises(ValueError, match="Omit it or `joined`"):
        RanPAC(model=create_backbone(), first_session="ssf", joined=True)
