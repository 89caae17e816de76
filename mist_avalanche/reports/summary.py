"""The numbers of a method's runs, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

METRICS = ("A_T", "A_bar", "A_new", "forgetting")
Runs = Sequence[Mapping[str, Any]]


class Cost(NamedTuple):
    """What else a run costs: its head, its value in results.json, how that is shown."""

    head: str
    of: Callable[[Mapping[str, Any]], float | None]
    shown: Callable[[float], str]


def _share(results: Mapping[str, Any]) -> float | None:
    parameters = results.get("parameters", {})
    total = parameters.get("backbone", parameters.get("total"))  # earlier versions had the model
    return 100 * parameters["updated"] / total if total else None


COSTS: Mapping[str, Cost] = {
    "seconds": Cost("seconds", lambda r: r.get("timing", {}).get("total"), "{:,.0f}".format),
    "memory": Cost("peak memory (MiB)", lambda r: r.get("memory"), lambda v: f"{v / 2**20:,.0f}"),
    "updated": Cost("updated", lambda r: r.get("parameters", {}).get("updated"), "{:,.0f}".format),
    "updated_share": Cost("updated (%)", _share, "{:.2f}".format),
}


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
    """Means over runs; None for what one of them has not measured."""
    found: dict[str, float | None] = {}
    for name, cost in COSTS.items():
        values = [v for r in runs if (v := cost.of(r)) is not None]
        found[name] = statistics.fmean(values) if len(values) == len(runs) else None
    return found
