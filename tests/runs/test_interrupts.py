import random
from contextlib import ExitStack
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from conftest import make_benchmark
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche._support.randomness import rng_state
from mist_avalanche.method.guard import StepGuard
from mist_avalanche.method.sgd import SparseSGD
from mist_avalanche.method.sparse_tuning import SparseTuning
from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.strategies import RanPAC
from mist_avalanche.strategies.feature_cache import FeatureCache

MIST = {"tune_epochs": 1, "batch_size": 5, "lr": 0.01, "seed": 0, "verbose": False}
PARTS = ("training", "training_exp", "training_epoch", "training_iteration", "forward", "backward")
EVALUATION = ("eval", "eval_exp", "eval_iteration", "eval_forward")
OF_MIST = (
    "before_training_exp",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_epoch",
    "after_training_exp",
)
# What is interrupted: a plugin's hook, before MIST's or after it; a method, when it is through
POINTS = {
    "training": [f"{w}_{p}" for p in (*PARTS, "update") for w in ("before", "after")],
    "evaluation": [f"{w}_{p}" for p in EVALUATION for w in ("before", "after")],
    "MIST": [
        *((MISTPlugin, name) for name in OF_MIST),
        *((SparseTuning, name) for name in ("score", "select", "tune")),
    ],
    "within": [
        (SparseSGD, "step"),
        (StepGuard, "before_step"),
        (StepGuard, "after_step"),
        (FeatureCache, "_store"),
        (RanPAC, "fit"),
        (Checkpoint, "_save"),
        (Checkpoint, "_remove"),
    ],
}


class Net(nn.Module):
    """A convolution with BatchNorm and dropout, and a classifier."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
        )
        self.classifier = nn.Linear(16, 6)

    def forward(self, x):
        return self.classifier(self.features(x))


class Interrupts:
    """Points at which KeyboardInterrupt is raised, once each, and in which experience."""

    def __init__(self):
        self.points, self.experience = {}, 0

    def reach(self, point):
        if self.points.get(point) == self.experience:
            del self.points[point]
            raise KeyboardInterrupt


interrupts = Interrupts()


class Stop(SupervisedPlugin):
    """Interrupts in its hooks."""

    place = "first"


class StopLast(Stop):
    """The same behind MIST."""

    place = "last"


def hook(name):
    def call(self, strategy, **kwargs):
        interrupts.reach((self.place, name))

    return call


for _name in [*POINTS["training"], *POINTS["evaluation"]]:
    setattr(Stop, _name, hook(_name))


def through(point):
    """A method that is interrupted when it is through."""
    original = getattr(*point)

    def call(*args, **kwargs):
        result = original(*args, **kwargs)
        interrupts.reach(point)
        return result

    return mock.patch.object(*point, staticmethod(call) if point[1] == "_remove" else call)


def evaluator():
    metrics = accuracy_metrics(experience=True, stream=True), loss_metrics(epoch=True)
    return EvaluationPlugin(*metrics, loggers=[])


def gradient_based(optimizer, plugins):
    model = Net()
    return Naive(
        model=model,
        optimizer=optimizer(model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=5,
        eval_mb_size=9,
        train_epochs=2,
        plugins=plugins,
        evaluator=evaluator(),
    )


def computed(plugins):
    model = Net().features
    for part in model:
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return RanPAC(
        model=model,
        n_random_features=32,
        seed=0,
        drift_compensation=True,
        train_mb_size=5,
        eval_mb_size=8,
        plugins=plugins,
        evaluator=evaluator(),
    )


BUILDS = {
    "SGD": partial(gradient_based, partial(torch.optim.SGD, lr=0.05, momentum=0.9)),
    "Adam": partial(gradient_based, partial(torch.optim.Adam, lr=0.01)),
    "RanPAC": computed,
}


def run(folder, name):
    """Train and evaluate; after an interrupt, load and go on. Model, metrics, random streams."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    benchmark = make_benchmark(6, 3, 4, (3, 8, 8))
    mist = MISTPlugin(**MIST, score_on="every", overlap_decay=0.5)
    strategy = BUILDS[name]([Stop(), mist, StopLast()])
    checkpoint = Checkpoint(folder, strategy, benchmark)
    while True:
        rows = checkpoint.load([])
        try:
            for t, experience in enumerate(
                benchmark.train_stream[checkpoint.done :], checkpoint.done
            ):
                interrupts.experience = t
                strategy.train(experience)
                metrics = strategy.eval(benchmark.test_stream[: t + 1])
                rows.append({k: v for k, v in metrics.items() if isinstance(v, float)})
                checkpoint.save(rows)
            return strategy.model.state_dict(), rows, rng_state()
        except KeyboardInterrupt:
            continue


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    found = {}

    def get(name):
        if name not in found:
            interrupts.points = {}
            found[name] = run(tmp_path_factory.mktemp("whole"), name)
        return found[name]

    return get


CASES = [(name, kind) for name in ("SGD", "RanPAC") for kind in POINTS]


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("Adam", "training"), ("Adam", "MIST")])
def test_after_an_interrupt_load_goes_on_as_if_there_was_none(whole, tmp_path, name, kind):
    state, rows, streams = whole(name)
    points = list(POINTS[kind])
    if isinstance(points[0], str):
        points = [("first" if i % 3 else "last", point) for i, point in enumerate(points)]
    interrupts.points = {point: 1 + (i % 4 == 0) for i, point in enumerate(points)}
    with ExitStack() as patches:
        for point in points:
            if isinstance(point[0], type):
                patches.enter_context(through(point))
        other, other_rows, other_streams = run(tmp_path, name)
    assert len(interrupts.points) < len(points)
    assert rows == other_rows
    assert state.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in state.items())
    assert torch.equal(streams["torch"], other_streams["torch"])
    assert streams["python"] == other_streams["python"]
    assert streams["numpy"] == other_streams["numpy"]
