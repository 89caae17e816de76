"""200 short experiences: memory and open files after each, which must not grow.

Every experience has two new classes, is scored, tuned, evaluated and saved. Prints a Markdown table
and fails where the process's memory, or the number of open files, after the last experience is more
than 5 % above that after the twentieth.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import warnings

import psutil
import torch
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import TensorDataset

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.runs.checkpoint import KEPT, Checkpoint
from mist_avalanche.strategies import RanPAC, SimpleCIL

PER_CLASS = 4


class Images(TensorDataset):
    """Random images of as many classes as there are, with integer targets."""

    def __init__(self, n_classes):
        y = torch.arange(n_classes).repeat_interleave(PER_CLASS)
        super().__init__(torch.rand(len(y), 3, 32, 32), y)
        self.targets = y.tolist()

    def __getitem__(self, index):
        return self.tensors[0][index], self.targets[index]


def build(name):
    """A strategy with MIST before every experience."""
    quick = {"score_on": "every", "tune_epochs": 1, "batch_size": 8, "verbose": False}
    mist = MISTPlugin(protect_rate=1e-4, seed=0, **quick)
    backbone = create_backbone()
    common = {
        "plugins": [mist],
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    }
    if name == "naive":
        model = nn.Sequential(backbone, IncrementalClassifier(96))
        sgd = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        return Naive(model=model, optimizer=sgd, train_mb_size=8, **common)
    if name == "ranpac":
        return RanPAC(model=backbone, n_random_features=200, drift_compensation=True, **common)
    return SimpleCIL(model=backbone, drift_compensation=True, **common)


def soak(name, experiences):
    """Megabytes and open files after every experience; after every tenth, without garbage."""
    made = Images(2 * experiences)
    benchmark = nc_benchmark(made, made, experiences, task_labels=False, shuffle=False)
    strategy, process, seen = build(name), psutil.Process(os.getpid()), []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(folder, strategy, benchmark)
        checkpoint.load()
        for t, experience in enumerate(benchmark.train_stream):
            strategy.train(experience)
            strategy.eval(benchmark.test_stream[max(0, t - 3) : t + 1])
            checkpoint.save()
            if t % 10 == 9:
                gc.collect()
            seen.append((process.memory_info().rss / 1e6, process.num_fds()))
        if len(os.listdir(folder)) != KEPT:
            raise AssertionError(f"Checkpoints left: {os.listdir(folder)}")
    return seen


def main() -> int:
    """Soak and print; 1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiences", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    grown = 0
    print("| strategy | MB after 20 | MB at the end | growth | open files after 20 | at the end |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in ("simplecil", "ranpac", "naive"):
        seen = soak(name, args.experiences)
        (early, files), (last, files_last) = seen[19], seen[-1]
        growth = last / early - 1
        grown += growth > 0.05 or files_last > files
        print(f"| {name} | {early:.0f} | {last:.0f} | {growth:.1%} | {files} | {files_last} |")
    return int(grown > 0)


if __name__ == "__main__":
    raise SystemExit(main())
