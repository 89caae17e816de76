"""What checkpoints cost: RanPAC on random features as wide as ViT-B/16's, saved after experiences.

The backbone has as many weights as ViT-B/16 and gives its input, so that the run is as short as it
can be: statistics, ridge and solution alone. Prints a Markdown table of seconds in all, seconds in
``Checkpoint.save``, files written, their megabytes, and the seconds of a resumption.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.utils.data import TensorDataset

from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.strategies import RanPAC

WIDTH, WEIGHTS = 768, 85_800_000


class Rows(TensorDataset):
    """Random features of classes in order, with integer targets."""

    def __init__(self, classes, per_class):
        y = torch.arange(classes).repeat_interleave(per_class)
        super().__init__(torch.rand(len(y), WIDTH), y)
        self.targets = y.tolist()

    def __getitem__(self, index):
        return self.tensors[0][index], self.targets[index]


class Nothing(nn.Module):
    """Gives its input, and has weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WEIGHTS))

    def forward(self, x):
        return x


def strategy(m):
    """RanPAC without metrics."""
    evaluator = EvaluationPlugin(loggers=[])
    return RanPAC(model=Nothing(), n_random_features=m, evaluator=evaluator, cache_mb=0)


def measure(m, classes, experiences, per_class):
    """A row of the table."""
    made = Rows(classes, per_class)
    benchmark = nc_benchmark(made, made, experiences, task_labels=False, shuffle=False)
    with tempfile.TemporaryDirectory() as folder:
        began, saving, written = time.perf_counter(), 0.0, set()
        checkpoint = Checkpoint(folder, host := strategy(m), benchmark)
        checkpoint.load()
        saving += time.perf_counter() - began
        for experience in benchmark.train_stream:
            host.train(experience, eval_streams=[])
            start = time.perf_counter()
            checkpoint.save()
            saving += time.perf_counter() - start
            written |= {file.name for file in Path(folder).iterdir()}
        total = time.perf_counter() - began
        size = max(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        start = time.perf_counter()
        Checkpoint(folder, strategy(m), benchmark).load()
        again = time.perf_counter() - start
    share = saving / (total - saving)
    return (
        f"| {m} | {classes} | {len(made)} | {experiences} | {total:.1f} | {saving:.2f} | "
        f"{share:.1%} | {len(written)} | {size:.0f} | {again:.1f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random-features", type=int, nargs="+", default=[2000, 10000])
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--per-class", type=int, default=120)
    parser.add_argument("--experiences", type=int, default=10)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| M | classes | images | experiences | s | s saving | share | files | MB | s resuming |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for m in args.random_features:
        print(measure(m, args.classes, args.experiences, args.per_class), flush=True)


if __name__ == "__main__":
    main()
