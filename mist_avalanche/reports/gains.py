"""What MIST adds to its host: differences of runs with the same seed and class order (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from scipy import stats

from ..strategies.names import host_of
from .summary import Runs


class Gain(NamedTuple):
    """A method with MIST less its host without, in points of A_T.

    Args:
        label: the method with MIST.
        host: the method without.
        differences: one a seed.
    """

    label: str
    host: str
    differences: list[float]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.differences)

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval, of Student's t; None for fewer than three seeds."""
        n = len(self.differences)
        if n < 3:
            return None
        spread: float = statistics.stdev(self.differences) / n**0.5
        return float(stats.t.ppf(0.975, n - 1)) * spread


def gains(methods: Mapping[str, Runs]) -> list[Gain]:
    """Of every method with MIST whose host has run too, in the order of the methods."""
    found = []
    for label, runs in methods.items():
        host = host_of(label)
        if host is None or host not in methods:
            continue
        without = {_pair(run): run["metrics"]["A_T"] for run in methods[host]}
        differences = [
            run["metrics"]["A_T"] - without[_pair(run)] for run in runs if _pair(run) in without
        ]
        if differences:
            found.append(Gain(label, host, differences))
    return found


def _pair(results: Mapping[str, Any]) -> tuple[Any, Any]:
    """What two runs share whose difference is taken."""
    return results["config"].get("seed"), results["config"].get("order_seed")
