"""What is stored of earlier classes, and a backbone that is tuned again or not."""

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from test_ranpac import features_of

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL

BOTH = pytest.mark.parametrize("strategy_class", [SimpleCIL, RanPAC])


def made(strategy_class, *plugins, model=None, **changes):
    settings = {"n_random_features": 50} if strategy_class is RanPAC else {}
    model = model or create_backbone()
    return strategy_class(model=model, plugins=plugins, evaluator=None, **settings, **changes)


def mist(**changes):
    return MISTPlugin(tune_epochs=1, lr=0.05, seed=0, verbose=False, **changes)


@BOTH
def test_stale_statistics_are_mentioned_once(strategy_class, benchmark_of):
    stream = benchmark_of(n_classes=6, n_experiences=3).train_stream
    strategy = made(strategy_class, mist())
    strategy.train(stream[0])
    with pytest.warns(UserWarning, match=r"stale.*tune_on='first'.*drift_compensation=True"):
        strategy.train(stream[1])
    strategy.train(stream[2])  # a second warning would be an error


@BOTH
def test_a_backbone_that_changes_between_experiences_is_noticed(strategy_class, benchmark_of):
    stream = benchmark_of().train_stream
    strategy = made(strategy_class)
    strategy.train(stream[0])
    next(strategy.backbone.parameters()).data.add_(0.1)
    with pytest.warns(UserWarning, match="stale"):
        strategy.train(stream[1])


@BOTH
@pytest.mark.parametrize(("tune_on", "compensate"), [("first", False), ("every", True)])
def test_no_warning_where_nothing_is_stale(strategy_class, tune_on, compensate, benchmark_of):
    strategy = made(strategy_class, mist(tune_on=tune_on), drift_compensation=compensate)
    strategy.train(benchmark_of(n_classes=6, n_experiences=3).train_stream)


class Shifted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = create_backbone()
        self.register_buffer("running", torch.zeros(96))

    def forward(self, x):
        return self.inner(x) + self.running


class MoveBuffer(SupervisedPlugin):
    """Changes a buffer alone, as BatchNorm does."""

    def before_training_exp(self, strategy, **kwargs):
        strategy.backbone.running.add_(1)


def test_compensation_follows_a_buffer(benchmark_of):
    strategy = made(SimpleCIL, MoveBuffer(), model=Shifted(), drift_compensation=True)
    stream = benchmark_of().train_stream
    strategy.train(stream)
    assert strategy.backbone.running[0] == 2
    features, labels = features_of(strategy.backbone, stream[:1])
    for c in labels.unique().tolist():
        mean = features[labels == c].double().mean(0)
        torch.testing.assert_close(strategy.head.prototypes[c], mean, atol=1e-3, rtol=1e-3)
