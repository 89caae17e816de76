"""Every cell of the table of benchmarks in docs/compatibility.md; tests/kinds.py says what runs."""

import warnings

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.training.supervised import Naive
from conftest import Images
from kinds import CELLS, from_datasets, outcome, trained_by_gradients

from mist_avalanche import MISTPlugin
from mist_avalanche._support.checks import classes_of
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL


@pytest.mark.parametrize(("kind", "host", "mist"), CELLS)
def test_runs_and_keeps_its_promise(kind, host, mist):
    assert outcome(kind, host, mist) == "runs"


def online(size):
    return [*split_online_stream(from_datasets((0, 1, 2), (3, 4, 5)).train_stream, size, seed=0)]


def trained_online(mist, size):
    """A strategy after the parts, and what MIST selected before each next one."""
    host = trained_by_gradients(Naive, [mist])
    selections = []
    for part in online(size):
        host.train(part)
        selections.append(mist.selection)
    return host, selections


QUICK = {"tune_epochs": 1, "seed": 0, "verbose": False, "score_on": "every", "tune_on": "every"}


def test_in_an_online_stream_mist_scores_and_tunes_once():
    mist = MISTPlugin(batch_size=8, **QUICK)
    tunings = []
    method = mist.method
    tune = method.tune
    method.tune = lambda *x, **y: tunings.append(method.experience) or tune(*x, **y)
    _, selections = trained_online(mist, 12)
    assert tunings == [0]
    assert all(selection is selections[0] for selection in selections)


def test_parts_too_small_to_tune_on_leave_the_backbone_as_it_is():
    mist = MISTPlugin(batch_size=8, projection_epochs=1, **QUICK)
    fresh = trained_by_gradients(Naive, []).model
    with pytest.warns(
        UserWarning, match=r"6 image.*8 images \(batch_size.*Lower batch_size, or train on a"
    ):
        host, selections = trained_online(mist, 6)
    assert selections == [None] * 10
    assert mist.objective.projection is None
    trained, before = dict(host.model.named_parameters()), dict(fresh.named_parameters())
    assert all(torch.equal(trained[k], p) == (k[:4] != "head") for k, p in before.items())


def test_an_online_run_with_everything_selected_is_the_run_without_the_plugin():
    whole = {"select_rate": 1.0, "drop_rate": 0.0, "tune_epochs": 0}
    models = []
    for plugins in ([], [MISTPlugin(**{**QUICK, **whole})]):
        torch.manual_seed(0)
        host = trained_by_gradients(Naive, plugins)
        for part in online(6):
            host.train(part)
        models.append(host.model.state_dict())
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())


def test_a_whole_experience_before_an_online_stream_is_what_mist_tunes_on():
    mist = MISTPlugin(batch_size=8, **QUICK)
    host = trained_by_gradients(Naive, [mist])
    host.train(from_datasets((0, 1, 2)).train_stream[0])
    selection = mist.selection
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for part in online(6)[5:]:
            host.train(part)
    assert mist.selection is selection is not None


@pytest.mark.parametrize("strategy", [SimpleCIL, RanPAC])
def test_items_without_targets_and_task_labels(strategy):
    """Drift compensation, classes to come and metrics, on nothing but (x, y)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 32, 32, generator=generator)
    y = torch.arange(4).repeat_interleave(4)
    parts = [AvalancheDataset([Images(x[i : i + 8], y[i : i + 8])]) for i in (0, 8)]
    benchmark = benchmark_from_datasets(train=parts, test=parts)
    assert [classes_of(e) for e in benchmark.train_stream] == [[0, 1], [2, 3]]
    mist = MISTPlugin(batch_size=4, tune_epochs=1, seed=0, verbose=False, objective="cross_entropy")
    changes = {"n_random_features": 50} if strategy is RanPAC else {}
    host = strategy(
        model=create_backbone(), plugins=[mist], drift_compensation=True, evaluator=None, **changes
    )
    for experience in benchmark.train_stream:
        host.train(experience)
        host.eval(benchmark.test_stream)
    assert host.head.counts.tolist() == [4] * 4
