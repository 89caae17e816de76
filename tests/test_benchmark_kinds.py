"""Kinds of benchmark that Avalanche makes, and what a strategy knows after each."""

import warnings
from functools import cache

import pytest
import torch
from avalanche.benchmarks import (
    benchmark_from_datasets,
    benchmark_with_validation_stream,
    class_incremental_benchmark,
    new_instances_benchmark,
    with_classes_timeline,
)
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.training.supervised import Naive, Replay
from conftest import Images, make_benchmark
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.models import BackboneWithHead, create_backbone
from mist_avalanche.strategies import APER, L2P, RanPAC, SimpleCIL
from mist_avalanche.utils import classes_of

N_CLASSES, PART = 6, 12
PAIRS = (0, 1), (2, 3), (4, 5)
pytestmark = pytest.mark.filterwarnings("ignore:The backbone")


@cache
def datasets():
    """Items (x, y, t) for training and test."""
    benchmark = make_benchmark(N_CLASSES, 1, 10)
    return benchmark.train_stream[0].dataset, benchmark.test_stream[0].dataset


def without_tasks(dataset):
    x, y, _ = zip(*dataset, strict=True)
    return as_classification_dataset(Images(torch.stack(x), torch.tensor(y)))


def from_datasets(*groups, prepared=lambda dataset: dataset):
    """A training experience for each group of classes, and one of all for the test."""
    train, test = map(prepared, datasets())
    parts = [[i for i, y in enumerate(train.targets) if y in group] for group in groups]
    return benchmark_from_datasets(train=[train.subset(part) for part in parts], test=[test])


def incremental():
    train, test = map(without_tasks, datasets())
    both = {"train": train, "test": test}
    return class_incremental_benchmark(both, class_order=range(N_CLASSES), num_experiences=3)


def online(size=PART):
    parts = split_online_stream(from_datasets((0, 1, 2), (3, 4, 5)).train_stream, size, seed=0)
    return [*parts]


KINDS = {
    "nc_benchmark": lambda: make_benchmark(N_CLASSES, 3, 10).train_stream,
    "class_incremental_benchmark": lambda: incremental().train_stream,
    "benchmark_from_datasets": lambda: from_datasets(*PAIRS).train_stream,
    "with_classes_timeline": lambda: with_classes_timeline(from_datasets(*PAIRS)).train_stream,
    "new_instances_benchmark": lambda: (
        new_instances_benchmark(*datasets(), num_experiences=3, seed=0).train_stream
    ),
    "split_online_stream": online,
    "with a validation stream": lambda: (
        benchmark_with_validation_stream(incremental(), 0.2, shuffle=True, seed=0).train_stream
    ),
    "classes that come back": lambda: from_datasets((0, 1), (1, 2, 3), (0, 3, 4, 5)).train_stream,
    "one class per experience": lambda: (
        from_datasets((0, 1), *([c] for c in range(2, N_CLASSES))).train_stream
    ),
    "without task labels": lambda: from_datasets(*PAIRS, prepared=without_tasks).train_stream,
}


def of_avalanche(strategy, plugins, **changes):
    """A strategy of Avalanche's on a pretrained backbone."""
    model = BackboneWithHead(create_backbone(), nn.Linear(96, N_CLASSES))
    groups = [{"params": model.backbone.parameters()}, {"params": model.head.parameters()}]
    settings = {"train_mb_size": 8, "train_epochs": 3, "evaluator": None, **changes}
    adam = torch.optim.Adam(groups, 5e-4)
    criterion = nn.CrossEntropyLoss()
    return strategy(model=model, optimizer=adam, criterion=criterion, plugins=plugins, **settings)


HOSTS = {
    "Replay": lambda plugins: of_avalanche(Replay, plugins, mem_size=12),
    "SimpleCIL": lambda plugins: SimpleCIL(
        model=create_backbone(), plugins=plugins, evaluator=None
    ),
    "RanPAC": lambda plugins: RanPAC(
        model=create_backbone(), n_random_features=200, plugins=plugins, evaluator=None
    ),
}


@torch.no_grad()
def accuracy(model, dataset):
    x, y, *_ = zip(*dataset.eval(), strict=True)
    return (model.eval()(torch.stack(x)).argmax(1) == torch.tensor(y)).float().mean().item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", HOSTS)
def test_knows_all_classes_and_stays_sparse(kind, host):
    torch.manual_seed(0)
    mist = MISTPlugin(tune_on="first", tune_epochs=2, batch_size=8, seed=0, verbose=False)
    strategy = HOSTS[host]([mist])
    backbone = strategy.model.backbone
    before = {f"backbone.{n}": p.detach().clone() for n, p in backbone.named_parameters()}
    experiences = [*KINDS[kind]()]
    for experience in experiences:
        strategy.train(experience)
    moved = 0
    for name, p in strategy.model.named_parameters():
        if name in before:
            change = p.detach() != before[name]
            assert not change[~mist.selection.masks[name]].any(), name
            moved += int(change.sum())
    assert 0 < moved <= 0.05 * mist.selection.total
    if host != "Replay":  # which forgets
        assert accuracy(strategy.model, datasets()[1]) > 2 / N_CLASSES
    if host == "SimpleCIL":
        items = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
        with torch.no_grad():
            features = backbone.eval()(torch.stack([x for x, _ in items])).double()
        labels = torch.tensor([y for _, y in items])
        means = torch.stack([features[labels == c].mean(0) for c in range(N_CLASSES)])
        torch.testing.assert_close(strategy.head.prototypes, means, atol=1e-5, rtol=0)


QUICK = {"tune_epochs": 1, "seed": 0, "verbose": False, "score_on": "every", "tune_on": "every"}


def test_in_an_online_stream_mist_scores_and_tunes_once():
    mist = MISTPlugin(batch_size=8, **QUICK)
    host, selections = of_avalanche(Naive, [mist]), []
    for part in online():
        host.train(part)
        selections.append(mist.selection)
    assert len(mist.losses) == 1
    assert all(selection is selections[0] for selection in selections)


def test_parts_too_small_to_tune_on_leave_the_backbone_as_it_is():
    mist = MISTPlugin(batch_size=8, **QUICK)
    host, fresh = of_avalanche(Naive, [mist]), of_avalanche(Naive, []).model.backbone
    with pytest.warns(UserWarning, match="batch_size"):
        host.train(online(6))
    assert mist.selection is None
    pairs = zip(host.model.backbone.parameters(), fresh.parameters(), strict=True)
    assert all(torch.equal(p, before) for p, before in pairs)


@pytest.mark.parametrize("kind", [L2P, APER])
def test_strategies_that_train_for_epochs_refuse_parts_of_an_online_stream(kind):
    strategy = kind(model=create_backbone(), evaluator=None)
    with pytest.raises(ValueError, match=kind.__name__):
        strategy.train(online()[0])


@pytest.mark.parametrize("strategy", [SimpleCIL, RanPAC])
def test_items_without_targets_and_task_labels(strategy):
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


warnings.filterwarnings("ignore", module="avalanche")
