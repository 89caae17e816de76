"""Runs of half a second: a few random images in the place of glyphs, and no pictures."""

import gc
from contextlib import contextmanager
from unittest import mock

from conftest import make_benchmark

from mist_avalanche.cli import run as cli_run
from mist_avalanche.runs import runner

MIST = {"tune_epochs": 2, "projection_epochs": 0, "batch_size": 8}


def tiny(config, n_experiences=3):
    """Experiences of two classes, built anew as every process would."""
    n_classes = 2 * n_experiences
    made = make_benchmark(n_classes, n_experiences, per_class=4)
    made.class_names, made.split_name = [f"class {i}" for i in range(n_classes)], "tiny"
    return made


@contextmanager
def tiny_benchmark(made=tiny):
    """Let glyphs be tiny, and draw nothing."""
    gc.freeze()  # else a collection at every start takes as long as the run
    with (
        mock.patch.object(runner, "BENCHMARKS", {"glyphs": made}),
        mock.patch.object(runner.report, "plot_accuracy"),
        mock.patch.object(runner, "write_board"),
        mock.patch.object(cli_run, "write_page"),
        mock.patch.object(cli_run, "write_figures"),
    ):
        try:
            yield
        finally:
            gc.unfreeze()


def results(t=4, mist=False, seed=0, a_t=75.0):
    """What a run of t experiences could have written to results.json, made up."""
    rows = [[90.0 - 10 * (k - i) for i in range(k + 1)] for k in range(t)]
    found = {
        "metrics": {"A_T": a_t, "A_bar": 80.0, "A_new": 90.0, "forgetting": 15.0},
        "accuracy": rows,
        "test_images": [10] * t,
        "classes_seen": [5 * (k + 1) for k in range(t)],
        "timing": {"total": 3.0},
        "config": {"strategy": "<simplecil>", "seed": seed, "order_seed": 1993},
        "environment": {"torch": "2"},
        "class_names": [f"class {i}" for i in range(5 * t)],
        "confusion": {
            "experiences": [[7 if i == k else 1 for k in range(t)] for i in range(t)],
            "classes": [[0, 1, 3], [2, 0, 1]],
        },
    }
    if mist:
        layers = [["blocks.0.attn.qkv.weight", 5, 100, False], ["norm.bias", 10, 10, True]]
        found["mist"] = {"selected_fraction": 0.04, "overlaps": [0.5], "layers": layers}
        found["mist"]["losses"] = [[2.0, 1.5, 1.2], [1.4, 1.1, 1.0]]
    return found
