"""What runs say, in numbers and in a sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from scipy import stats

from .labels import display_name, host_of, is_upper_bound

Runs: TypeAlias = Sequence[Mapping[str, Any]]  # one results.json per seed
Methods: TypeAlias = Mapping[str, Runs]  # by label

METRICS = ("A_T", "A_bar", "A_new", "forgetting")
BEST, SECOND = 1, 2


def mean_and_std(runs: Runs) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (0 for one run) of every metric over seeds."""
    found = {}
    for metric in METRICS:
        values = [float(run["metrics"][metric]) for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        found[metric] = {"mean": statistics.fmean(values), "std": std}
    return found


def ranks(methods: Methods, metric: str) -> dict[str, int]:
    """``BEST`` and, among three methods or more, ``SECOND``, by the mean rounded as in the tables.

    Equal means share a rank. Upper bounds (joint, cumulative) have none.
    """
    means = {
        label: round(mean_and_std(runs)[metric]["mean"], 1)
        for label, runs in methods.items()
        if not is_upper_bound(label)
    }
    ordered = sorted({*means.values()}, reverse=metric != "forgetting")
    if len(ordered) < 2:
        return {}
    places = {ordered[0]: BEST}
    if len(means) > 2:
        places[ordered[1]] = SECOND
    return {label: places[mean] for label, mean in means.items() if mean in places}


def costs(runs: Runs) -> dict[str, float | None]:
    """Seconds, bytes and updated entries, means over seeds; None where a run lacks the value."""
    rows = []
    for run in runs:
        parameters = run.get("parameters", {})
        updated = parameters.get("updated")
        size = parameters.get("backbone", parameters.get("total"))  # old results lack the backbone
        share = updated / size if size else None
        rows.append((run.get("timing", {}).get("total"), run.get("memory"), updated, share))
    names = ("seconds", "memory", "updated", "updated_share")
    return {
        name: None if None in values else statistics.fmean(values)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


class Gain(NamedTuple):
    """A method with MIST minus its host without, in points of A_T, by seed."""

    label: str
    host: str
    differences: list[float]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.differences)

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean, by Student's t; None below three seeds."""
        n = len(self.differences)
        if n < 3:
            return None
        quantile = float(stats.t.ppf(0.975, n - 1))
        return quantile * statistics.stdev(self.differences) / math.sqrt(n)

    @property
    def interval(self) -> str:
        """The 95 % interval and the number of seeds, in words."""
        seeds = _counted(len(self.differences), "seed")
        if self.half_width is None:
            return f"{seeds}, no interval"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        return f"95 % interval {low:+.1f} to {high:+.1f}, {seeds}"


def gains(methods: Methods) -> list[Gain]:
    """The gain of every method with MIST whose host ran too, paired by seed and class order."""
    found = []
    for label, runs in methods.items():
        host = host_of(label)
        if host is None or host not in methods:
            continue
        without = {_pair(run): run["metrics"]["A_T"] for run in methods[host]}
        paired = [run for run in runs if _pair(run) in without]
        if paired:
            differences = [run["metrics"]["A_T"] - without[_pair(run)] for run in paired]
            found.append(Gain(label, host, differences))
    return found


def lead(methods: Methods) -> str:
    """The point of a comparison: which method is best, and what MIST adds."""
    best = [label for label, rank in ranks(methods, "A_T").items() if rank == BEST]
    label = best[0] if best else next(iter(methods))
    runs = methods[label]
    a_t = mean_and_std(runs)["A_T"]
    claim = "has the highest A_T" if best else "has an A_T"
    if best and any(map(is_upper_bound, methods)):
        claim += " below the upper bound"
    if len(best) > 1:
        claim += ", level with others"
    spread = f" ± {a_t['std']:.1f}" if len(runs) > 1 else ""
    over = _counted(len(runs), "seed")
    if runs[0]["config"].get("first") is not None:
        over += " after {first} of {experiences} experiences".format_map(runs[0]["config"])
    sentences = [f"{display_name(label)} {claim}: {a_t['mean']:.1f}{spread} % over {over}."]
    for gain in gains(methods):
        if gain.label.split("+")[1] == "mist":  # and not an ablation
            host = display_name(gain.host)
            added = display_name(gain.label).removeprefix(f"{host} + ")
            verb = "gains" if round(gain.mean, 1) >= 0 else "loses"
            points = f"{abs(gain.mean):.1f} points ({gain.interval})"
            sentences.append(f"With {added}, {host} {verb} {points}.")
    return " ".join(sentences)


def _pair(run: Mapping[str, Any]) -> tuple[Any, Any]:
    return run["config"].get("seed"), run["config"].get("order_seed")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
