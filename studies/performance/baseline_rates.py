"""Learning rates of Avalanche's baselines, on glyphs that no benchmark has.

The default in ``mist_avalanche/strategies/baselines.py`` was chosen with it.

    python studies/performance/baseline_rates.py
"""

from __future__ import annotations

import argparse
import random

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from kinds_of_shift import benchmark_of

from mist_avalanche.benchmarks import glyphs
from mist_avalanche.models import create_backbone
from mist_avalanche.strategies.registry import find


def main() -> None:
    """Print A_T of each strategy at each learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.01, 0.003, 0.001])
    parser.add_argument("--strategies", nargs="+", default=["naive", "replay"])
    args = parser.parse_args()
    benchmark = benchmark_of(glyphs.FAR, 0)
    for name in args.strategies:
        for lr in args.lrs:
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(0)
            strategy = find(name).build(
                model=create_backbone("embedded"),
                n_features=96,
                n_classes=100,
                image_size=32,
                plugins=[],
                lr=lr,
                device=torch.device("cpu"),
                evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
            )
            for experience in benchmark.train_stream:
                strategy.train(experience)
            metrics = strategy.eval(benchmark.test_stream)
            a_t = 100 * metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
            print(f"{name} | lr {lr:g} | A_T {a_t:.1f}", flush=True)


if __name__ == "__main__":
    main()
