"""Runs of half a second, on a benchmark of a few random images."""

from conftest import make_benchmark

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
