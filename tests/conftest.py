import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from torch.utils.data import TensorDataset

from mist_avalanche.models import defaults
from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.models.defaults import EMBEDDED
from mist_avalanche.strategies.registry import STRATEGIES

torch.set_num_threads(1)  # a second thread mostly waits for tensors as small as these


class Images(TensorDataset):
    def __init__(self, x, y):
        super().__init__(x)
        self.targets = y.tolist()

    def __getitem__(self, index):
        return self.tensors[0][index], self.targets[index]


def brightened(x):
    """A random transform, by numbers of all three libraries."""
    return x * (0.5 + torch.rand(()) + random.random() + np.random.rand()) / 2


def make_benchmark(
    n_classes=4,
    n_experiences=2,
    per_class=8,
    shape=(3, 32, 32),
    seed=0,
    task_labels=False,
    train_transform=None,
):
    """Classes that differ by a fixed pattern under noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(n_classes, *shape, generator=generator)
    y = torch.arange(n_classes).repeat_interleave(per_class)

    def images():
        noise = torch.rand(len(y), *shape, generator=generator)
        return Images(0.7 * patterns[y] + 0.3 * noise, y)

    return nc_benchmark(
        images(),
        images(),
        n_experiences,
        task_labels=task_labels,
        fixed_class_order=list(range(n_classes)),
        class_ids_from_zero_from_first_exp=not task_labels,
        class_ids_from_zero_in_each_exp=task_labels,
        train_transform=train_transform,
    )


@pytest.fixture
def short_tuning(monkeypatch):
    """The embedded backbone's defaults, but with a few epochs of tuning."""
    default = defaults.DEFAULTS[EMBEDDED]
    short = replace(default, mist={**default.mist, "tune_epochs": 4})
    monkeypatch.setattr(defaults, "DEFAULTS", {EMBEDDED: short})


@pytest.fixture
def benchmark_of():
    return make_benchmark


@pytest.fixture
def small_vit():
    """A ViT with a classifier of 4 classes, the same weights every time."""

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return tiny_vit(num_classes=4)

    return make


@pytest.fixture(autouse=True)
def _registry():
    """Strategies that a test registers are its own."""
    before = {**STRATEGIES}
    yield
    STRATEGIES.clear()
    STRATEGIES.update(before)
