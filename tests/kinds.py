"""Kinds of benchmark that Avalanche makes, and what four strategies do on each.

``tests/compatibility.py`` writes the table of them into ``docs/compatibility.md``.
"""

import warnings
from functools import cache

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
from avalanche.training import supervised
from conftest import Images, make_benchmark
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.models.heads import BackboneWithHead
from mist_avalanche.strategies import RanPAC, SimpleCIL

N_CLASSES, PER_CLASS = 6, 10
PART = 12  # images of an online experience


@cache
def datasets():
    """Items (x, y, t) for training and test."""
    benchmark = make_benchmark(N_CLASSES, 1, PER_CLASS)
    return benchmark.train_stream[0].dataset, benchmark.test_stream[0].dataset


def without_tasks(dataset):
    """The same as items (x, y)."""
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


def streams(benchmark):
    return [*benchmark.train_stream], [benchmark.test_stream]


def online():
    benchmark = from_datasets((0, 1, 2), (3, 4, 5))
    return [*split_online_stream(benchmark.train_stream, PART, seed=0)], [benchmark.test_stream]


def validated():
    benchmark = benchmark_with_validation_stream(incremental(), 0.2, shuffle=True, seed=0)
    return [*benchmark.train_stream], [benchmark.valid_stream, benchmark.test_stream]


PAIRS = (0, 1), (2, 3), (4, 5)
KINDS = {
    "nc_benchmark": lambda: streams(make_benchmark(N_CLASSES, 3, PER_CLASS)),
    "class_incremental_benchmark": lambda: streams(incremental()),
    "benchmark_from_datasets": lambda: streams(from_datasets(*PAIRS)),
    "with_classes_timeline": lambda: streams(with_classes_timeline(from_datasets(*PAIRS))),
    "new_instances_benchmark": lambda: streams(
        new_instances_benchmark(*datasets(), num_experiences=3, seed=0)
    ),
    "split_online_stream": online,
    "benchmark_with_validation_stream": validated,
    "classes that come back": lambda: streams(from_datasets((0, 1), (1, 2, 3), (0, 3, 4, 5))),
    "one class an experience after the first": lambda: streams(
        from_datasets((0, 1), *([c] for c in range(2, N_CLASSES)))
    ),
    "without task labels": lambda: streams(from_datasets(*PAIRS, prepared=without_tasks)),
}


def trained_by_gradients(strategy, plugins, **changes):
    """A strategy of Avalanche's on a pretrained backbone."""
    model = BackboneWithHead(create_backbone(), nn.Linear(96, N_CLASSES))
    settings = {"train_mb_size": 8, "train_epochs": 3, "evaluator": None, **changes}
    groups = [
        {"params": model.backbone.parameters()},
        {"params": model.head.parameters(), "lr": 0.01},
    ]
    adam = torch.optim.Adam(groups, 5e-4)
    return strategy(
        model=model, optimizer=adam, criterion=nn.CrossEntropyLoss(), plugins=plugins, **settings
    )


HOSTS = {
    "Naive": lambda plugins: trained_by_gradients(supervised.Naive, plugins),
    "Replay": lambda plugins: trained_by_gradients(supervised.Replay, plugins, mem_size=12),
    "SimpleCIL": lambda plugins: SimpleCIL(
        model=create_backbone(), plugins=plugins, evaluator=None
    ),
    "RanPAC": lambda plugins: RanPAC(
        model=create_backbone(), n_random_features=200, plugins=plugins, evaluator=None
    ),
}
ABOUT = (
    f"The embedded backbone on {N_CLASSES} classes. **runs**: every experience is trained on and "
    "every stream evaluated. Naive and Replay then know the newest experience, SimpleCIL and "
    "RanPAC all classes; SimpleCIL's prototypes are the means of all images seen, those of classes "
    "that came back included. With the plugin (`tune_on='first'`) at most 5 % of the backbone has "
    "moved, and no entry that was not selected by a bit; what Naive and Replay know is not checked "
    f"there. The parts of the online stream have {PART} images, enough for the plugin's "
    "`batch_size=8`. Of the one-class experiences the first has two, which the plugin needs to "
    "tune on. Those of `class_incremental_benchmark` and with a validation stream have no task "
    "labels either."
)
CELLS = [(kind, host, mist) for kind in KINDS for host in HOSTS for mist in (False, True)]


@torch.no_grad()
def accuracy(model, experiences):
    """Share of the images, under the eval transform, whose label has the highest logit."""
    items = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
    logits = model.eval()(torch.stack([x for x, _ in items]))
    return (logits.argmax(1) == torch.tensor([y for _, y in items])).float().mean().item()


def check_means(strategy, experiences):
    """Prototypes are the means of all images seen, those of classes that came back included."""
    items = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
    with torch.no_grad():
        features = strategy.model.backbone.eval()(torch.stack([x for x, _ in items])).double()
    labels = torch.tensor([y for _, y in items])
    means = torch.stack([features[labels == c].mean(0) for c in range(N_CLASSES)])
    assert strategy.head.counts.tolist() == labels.bincount().tolist()
    torch.testing.assert_close(strategy.head.prototypes, means, atol=1e-5, rtol=0)


def check_sparse(model, mist, before):
    """What was not selected has the bits it had."""
    moved = 0
    for name, p in model.named_parameters():
        if name in before:
            change = p.detach() != before[name]
            assert not change[~mist.selection.masks[name]].any(), f"{name} moved unselected"
            moved += int(change.sum())
    assert 0 < moved <= 0.05 * sum(p.numel() for p in before.values())


@cache
def outcome(kind, host, with_mist):
    """``runs``, after its promise was checked."""
    torch.manual_seed(0)
    mist = MISTPlugin(tune_on="first", tune_epochs=2, batch_size=8, seed=0, verbose=False)
    strategy = HOSTS[host]([mist] if with_mist else [])
    before = {
        name: p.detach().clone()
        for name, p in strategy.model.named_parameters()
        if name.startswith("backbone.")
    }
    experiences, evaluated = KINDS[kind]()
    for experience in experiences:
        strategy.train(experience)
    for stream in evaluated:
        strategy.eval(stream)
    if with_mist:
        check_sparse(strategy.model, mist, before)
    elif host in ("SimpleCIL", "RanPAC"):
        after = dict(strategy.model.named_parameters())
        assert all(torch.equal(after[name], p) for name, p in before.items())
    if host == "SimpleCIL":
        check_means(strategy, experiences)
    computed = host in ("SimpleCIL", "RanPAC")
    if computed or not with_mist:  # Naive forgets, but not what came last
        known = evaluated[-1] if computed else experiences[-1:]
        assert accuracy(strategy.model, known) > 2 / N_CLASSES
    return "runs"


def table(outcome=outcome):
    """Kinds as rows, strategies without and with MISTPlugin as columns."""
    names = [f"{host}{' + MIST' if mist else ''}" for host in HOSTS for mist in (False, True)]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for kind in KINDS:
        cells = [outcome(kind, host, mist) for host in HOSTS for mist in (False, True)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


warnings.filterwarnings("ignore", module="avalanche")
