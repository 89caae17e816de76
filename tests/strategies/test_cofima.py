"""The average of CoFiMA: its limits, and what it is taken of."""

import pytest
import torch
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import same, small, state, streams

from mist_avalanche import MISTPlugin
from mist_avalanche.strategies import SLCA, CoFiMA
from mist_avalanche.strategies.cofima import fisher_average

USUAL = {"lr": 0.05, "backbone_lr": 0.01, "train_epochs": 2, "train_mb_size": 4}
USUAL |= {"samples_per_class": 8, "align_epochs": 2, "evaluator": None}


def trained(kind, n=3, plugins=(), shuffle=True, **changes):
    strategy = kind(model=small(), plugins=[*plugins], **{**USUAL, **changes})
    benchmark = streams([(0, 1), (2, 3), (4, 5)], noise=0.3)
    for t, experience in enumerate(benchmark.train_stream[:n]):
        torch.manual_seed(7)
        seen = benchmark.test_stream[: t + 1]
        strategy.train(experience, shuffle=shuffle, eval_streams=[seen])
    return strategy


def backbone(strategy):
    return {name: v for name, v in state(strategy).items() if name.startswith("backbone.")}


def average_of(old, new, new_weight, *fishers):
    named = [{"w": fisher} for fisher in fishers]
    return fisher_average({"w": old}, {"w": new}, new_weight, tuple(named) or None)["w"]


# ---- Whole runs ---------------------------------------------------------------------------------


def test_coma_with_the_whole_weight_on_the_new_state_is_slca():
    assert same(state(trained(CoFiMA, new_weight=1, fisher=False)), state(trained(SLCA)))


def test_without_weight_on_the_new_state_the_backbone_stays_and_no_tuning_is_kept():
    first = backbone(trained(CoFiMA, n=1))
    assert same(first, backbone(trained(SLCA, n=1)))  # the first experience has no average
    for fisher in (True, False):
        assert same(first, backbone(trained(CoFiMA, new_weight=0, fisher=fisher)))
    mist = {"tune_epochs": 1, "batch_size": 4, "lr": 0.05, "seed": 0, "verbose": False}
    for n, tuned in ((1, 1), (2, 2)):
        plugin = MISTPlugin(tune_on="every", **mist)
        strategy = trained(CoFiMA, n=n, plugins=[plugin], new_weight=0)
        assert len(plugin.losses) == tuned
        if n == 1:
            first = backbone(strategy)
    assert same(first, backbone(strategy))


@pytest.mark.parametrize("fisher", [True, False])
def test_an_average_lies_between_the_states(fisher):
    found = {}
    for new_weight in (0, 0.5, 1):
        found[new_weight] = backbone(trained(CoFiMA, n=2, new_weight=new_weight, fisher=fisher))
    shares = []
    for name, middle in found[0.5].items():
        old, new = found[0][name], found[1][name]
        tiny = 1e-6 * torch.maximum(old.abs(), new.abs())
        assert (middle >= torch.minimum(old, new) - tiny).all()
        assert (middle <= torch.maximum(old, new) + tiny).all()
        far = (new - old).abs() > 1e-4
        shares.append(((middle - old) / (new - old))[far])
    shares = torch.cat(shares)
    assert len(shares) > 100
    assert (shares.std() > 0.05) == fisher
    if not fisher:
        torch.testing.assert_close(shares, torch.full_like(shares, 0.5), atol=5e-3, rtol=0)


class SameStart(SupervisedPlugin):
    """New rows start the same, whatever was drawn before."""

    def before_training_exp(self, strategy, **kwargs):
        torch.manual_seed(8)
        torch.nn.init.trunc_normal_(strategy.head.part.weight, std=0.02)


def test_fisher_information_is_of_the_training_batches_whatever_is_evaluated():
    settings = {"shuffle": False, "align_epochs": 0, "plugins": [SameStart()]}
    plain, looking = (trained(CoFiMA, eval_every=every, **settings) for every in (-1, 1))
    assert same(backbone(plain), backbone(looking))
    information = [strategy.state_dict()["fisher"] for strategy in (plain, looking)]
    assert same(*information)
    assert all(f.min() >= 0 and f.max() <= 1e-4 for f in information[0].values())
    trained(CoFiMA, plugins=[ReplayPlugin(4)])  # whose batches have labels of other experiences


# ---- The average --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), new_weight=st.floats(0, 1))
def test_limits_of_the_average(seed, new_weight):
    g = torch.Generator().manual_seed(seed)
    old, new = torch.randn(2, 40, generator=g)
    one, other = torch.rand(2, 40, generator=g) ** 8
    zero = torch.zeros(40)
    plain = average_of(old, new, new_weight)
    torch.testing.assert_close(plain, old + new_weight * (new - old))
    assert torch.equal(average_of(old, new, new_weight, zero, zero), plain)
    torch.testing.assert_close(average_of(old, new, new_weight, one + 0.1, one + 0.1), plain)
    found = average_of(old, new, new_weight, one, other)
    assert (found >= torch.minimum(old, new) - 1e-6).all()
    assert (found <= torch.maximum(old, new) + 1e-6).all()
    assert torch.equal(average_of(old, new, 1.0, one, other + 1e-6), new)
    assert torch.equal(average_of(old, new, 0.0, one + 1e-6, other), old)
    assert torch.equal(average_of(old, new, 0.5, zero, one + 1e-6), new)
    new[::3] = old[::3]
    assert torch.equal(average_of(old, new, new_weight, one, other)[::3], old[::3])


def test_names_of_the_average():
    old, new = {"w": torch.zeros(2)}, {"w": torch.ones(2), "new": torch.ones(3)}
    assert torch.equal(fisher_average(old, new, 0.25)["new"], new["new"])
    with pytest.raises(KeyError, match="w"):
        fisher_average(old, new, 0.25, ({}, new))
