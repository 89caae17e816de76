"""The numbers of a method's runs, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = ("A_T", "A_bar", "A_new", "forgetting")
# What else a run costs: the key in results.json and, within it, what is shown.
COSTS = {
    "seconds": ("timing", "total"),
    "trainable": ("parameters", "trainable"),
    "updated": ("parameters", "updated"),
}
Runs = Sequence[Mapping[str, Any]]


def mean_and_std(runs: Runs) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (0 for one run) of every metric."""
    values = {metric: [float(r["metrics"][metric]) for r in runs] for metric in METRICS}
    return {
        metric: {
            "mean": statistics.fmean(v),
            "std": statistics.stdev(v) if len(v) > 1 else 0.0,
        }
        for metric, v in values.items()
    }


def costs(runs: Runs) -> dict[str, float | None]:
    """Means over runs; None for what a run of an earlier version has not measured."""
    found: dict[str, float | None] = {}
    for name, (part, key) in COSTS.items():
        values = [r.get(part, {}).get(key) for r in runs]
        found[name] = None if None in values else statistics.fmean(values)
    return found
