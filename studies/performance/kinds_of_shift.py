"""Which changes of images MIST can compensate, on glyphs that no benchmark has.

100 of the 400 glyphs of the embedded backbone's pretraining are drawn in ways that it has not seen.
MIST tunes on ten of them, and a nearest-mean classifier is evaluated on all 100. The settings of
the embedded backbone were chosen in the same way (``--lrs``, ``--epochs``).

    python studies/performance/kinds_of_shift.py --seeds 5
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import mean
from typing import Any
from unittest import mock

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import glyphs
from mist_avalanche.benchmarks.rendering import PRINTED, SEEN
from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import SimpleCIL

KINDS = {
    "print": PRINTED,
    "hand-made": glyphs.HAND_MADE,
    "hand-made, more bent, turned and small": replace(
        glyphs.HAND_MADE, rotation=0.6, slant=0.5, scale=(0.55, 1.15), elastic=0.05
    ),
    "hand-made, noisier": replace(glyphs.HAND_MADE, noise=0.25),
    "hand-made, hollow": replace(glyphs.HAND_MADE, outline=1.0),
    "hand-made, hollow, blotted paper": glyphs.FAR,
}


def benchmark_of(style: object, seed: int) -> Any:
    """Glyphs of the pretraining in a style, ten experiences."""
    with (
        mock.patch.object(glyphs, "style_at", return_value=style),
        mock.patch.object(glyphs, "UNSEEN", SEEN[100:200]),
    ):
        return glyphs.SplitGlyphs(10, data_seed=7 + seed, seed=seed)


def accuracy(style: object, seed: int, tuning: dict[str, float] | None) -> float:
    """A_T of SimpleCIL in percent, after MIST on the first of ten experiences or without it."""
    benchmark = benchmark_of(style, seed)
    torch.manual_seed(seed)
    plugins = []
    if tuning is not None:
        plugins = [MISTPlugin.for_backbone("embedded", seed=seed, verbose=False, **tuning)]
    strategy = SimpleCIL(
        model=create_backbone("embedded"),
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        eval_mb_size=200,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    metrics = strategy.eval(benchmark.test_stream)
    return 100 * metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]


def main() -> None:
    """Print a row for each kind of shift and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.01])
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    for name, style in KINDS.items():
        frozen = [accuracy(style, seed, None) for seed in range(args.seeds)]
        for lr in args.lrs:
            tuning = {"lr": lr, "tune_epochs": args.epochs}
            gains = [accuracy(style, s, tuning) - a for s, a in enumerate(frozen)]
            each = ", ".join(f"{gain:+.1f}" for gain in gains)
            row = f"{name} | lr {lr:g} | frozen {mean(frozen):.1f} | gain {mean(gains):+.1f}"
            print(f"{row} ({each})", flush=True)


if __name__ == "__main__":
    main()
