"""What runs say, in numbers and in a sentence: means, ranks, costs, the gain of MIST."""

from __future__ import annotations

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
    """Means over seeds of seconds, bytes and updated entries; None where a run lacks the value."""
    measured: dict[str, list[float | None]] = {}
    for run in runs:
        parameters = run.get("parameters", {})
        updated = parameters.get("updated")
        size = parameters.get("backbone", parameters.get("total"))  # old results lack the backbone
        values = {
            "seconds": run.get("timing", {}).get("total"),
            "peak memory (MiB)": run["memory"] / 2**20 if run.get("memory") else None,
            "updated": updated,
            "updated (%)": 100 * updated / size if size else None,
        }
        for name, value in values.items():
            measured.setdefault(name, []).append(value)
    return {
        name: None if None in values else statistics.fmean(v for v in values if v is not None)
        for name, values in measured.items()
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
        return float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(self.differences) / n**0.5

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
    """The point of a comparison: which method is best, and what MIST adds. "" for no methods."""
    if not methods:
        return ""
    best = [label for label, rank in ranks(methods, "A_T").items() if rank == BEST]
    label = best[0] if best else next(iter(methods))
    runs = methods[label]
    config, a_t = runs[0]["config"], mean_and_std(runs)["A_T"]
    sentence = f"{display_name(label)} has {'the highest' if best else 'an'} A_T"
    sentence += ", level with others" if len(best) > 1 else ""
    sentence += f": {a_t['mean']:.1f}" + (f" ± {a_t['std']:.1f}" if len(runs) > 1 else "")
    sentence += f" % over {_counted(len(runs), 'seed')}"
    if config.get("first") is not None:
        sentence += f", after {config['first']} of {config['experiences']} experiences"
    sentences = [f"{sentence}."]
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
