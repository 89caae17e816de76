"""Runs of half a second: a benchmark of a few random images, and results that are made up."""

from contextlib import contextmanager
from unittest import mock

from conftest import make_benchmark

from mist_avalanche.benchmarks import BENCHMARKS
from mist_avalanche.runs import RunConfig

TINY = "tiny_runs:tiny"  # as the command takes it
MIST = {"tune_epochs": 2, "batch_size": 8}


def tiny(n_experiences=3, *, seed=0, per_class=4):
    """Experiences of two classes."""
    made = make_benchmark(2 * n_experiences, n_experiences, per_class=per_class, seed=seed)
    made.class_names = [f"class {i}" for i in range(2 * n_experiences)]
    made.split_name = "tiny"
    return made


def config(strategy="simplecil", **settings):
    """Settings of a tiny run."""
    if settings.get("mist"):
        settings["mist_args"] = {**MIST, **settings.get("mist_args", {})}
    return RunConfig(**{"benchmark": TINY, "experiences": 3, "strategy": strategy, **settings})


@contextmanager
def tiny_benchmark():
    """Let glyphs be tiny."""
    with mock.patch.dict(BENCHMARKS, glyphs=tiny):
        yield


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
