"""What runs say, in numbers and in a sentence."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from scipy import stats

from .labels import display_name, host_of, is_upper_bound

Runs: TypeAlias = Sequence[Mapping[str, Any]]  # one results.json per seed
Methods: TypeAlias = Mapping[str, Runs]  # by label

METRICS = ("A_T", "A_bar", "A_new", "forgetting")


def mean_and_std(runs: Runs) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (0 for one run) of every metric over seeds."""
    found = {}
    for metric in METRICS:
        values = [float(run["metrics"][metric]) for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        found[metric] = {"mean": statistics.fmean(values), "std": std}
    return found


def check_same_data(methods: Methods) -> None:
    """ValueError where runs are of different images or classes, or of other weights of a backbone.

    The images of a benchmark of one's own may depend on the seed of the order.
    """
    first: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for label, run in ((label, run) for label, runs in methods.items() for run in runs):
        config, digests = run["config"], run.get("digests", {})
        order = config["order_seed"], config.get("experiences"), config.get("benchmark")
        images = order if ":" in config.get("benchmark", "") else ()
        name = f"{display_name(label)}, seed {config['seed']}"
        for what, alike in (
            ("training_images", images),
            ("test_images", images),
            ("class_names", order),
            ("backbone", (config.get("backbone"), config.get("image_size"))),
        ):
            other, digest = first.setdefault((what, *alike), (name, digests.get(what)))
            if digest != digests.get(what):
                raise ValueError(
                    f"{other} and {name} cannot stand in one table, their {what} differ "
                    f"({digest} and {digests.get(what)}). Run them again (--overwrite)."
                )


def best(methods: Methods, metric: str) -> list[str]:
    """The methods with the best mean, rounded as in the tables; none if all means are equal.

    Upper bounds (joint, cumulative) do not take part.
    """
    means = {
        label: round(mean_and_std(runs)[metric]["mean"], 1)
        for label, runs in methods.items()
        if not is_upper_bound(label)
    }
    if len({*means.values()}) < 2:
        return []
    top = min(means.values()) if metric == "forgetting" else max(means.values())
    return [label for label, mean in means.items() if mean == top]


def costs(runs: Runs) -> dict[str, Any]:
    """Seconds, bytes of peak memory (None if unknown) and updated share of the backbone, means."""
    memory = [run["memory"] for run in runs]
    sizes = [run["parameters"] for run in runs]
    return {
        "seconds": statistics.fmean(run["timing"]["total"] for run in runs),
        "memory": None if None in memory else statistics.fmean(memory),
        "updated_share": statistics.fmean(n["updated"] / max(1, n["backbone"]) for n in sizes),
    }


class Gain(NamedTuple):
    """A method with MIST minus its host without, in points of A_T."""

    label: str
    host: str
    differences: list[float]  # by seed
    mean: float
    half_width: float | None  # of the mean's 95 % interval (Student's t); None below three seeds


def gains(methods: Methods) -> list[Gain]:
    """The gain of every method with MIST whose host ran too, paired by seed and class order."""
    found = []
    for label, runs in methods.items():
        host = host_of(label)
        if host is None or host not in methods:
            continue
        without = {_seeds(run): run["metrics"]["A_T"] for run in methods[host]}
        paired = [run for run in runs if _seeds(run) in without]
        points = [run["metrics"]["A_T"] - without[_seeds(run)] for run in paired]
        if points:
            n = len(points)
            half_width = stats.t.ppf(0.975, n - 1) * stats.sem(points) if n > 2 else None
            found.append(Gain(label, host, points, statistics.fmean(points), half_width))
    return found


def lead(methods: Methods) -> str:
    """The point of a comparison: which method is best, and what MIST adds."""
    winners = best(methods, "A_T")
    below = " below the upper bound" if any(map(is_upper_bound, methods)) else ""
    verb = "has" if len(winners) == 1 else "share"
    claim = f"{verb} the highest A_T{below}:" if winners else "has an A_T of"
    shown = winners or [*methods][:1]
    runs = methods[shown[0]]
    a_t, config = mean_and_std(runs)["A_T"], runs[0]["config"]
    spread = f" ± {a_t['std']:.1f}" if len(runs) > 1 else ""
    number = f"{a_t['mean']:.1f}{spread} % over {_counted(len(runs))}"
    if config.get("first") is not None:
        number += f" after {config['first']} of {config['experiences']} experiences"
    sentences = [f"{' and '.join(map(display_name, shown))} {claim} {number}."]
    for gain in gains(methods):
        if gain.label.split("+")[1] == "mist":  # and not an ablation
            host = display_name(gain.host)
            added = display_name(gain.label).removeprefix(f"{host} + ")
            verb = "gains" if round(gain.mean, 1) >= 0 else "loses"
            interval = "no interval"
            if gain.half_width is not None:
                low, high = gain.mean - gain.half_width, gain.mean + gain.half_width
                interval = f"95 % interval {low:+.1f} to {high:+.1f}"
            seeds = _counted(len(gain.differences))
            points = f"{abs(gain.mean):.1f} points ({interval}, {seeds})"
            sentences.append(f"With {added}, {host} {verb} {points}.")
    return " ".join(sentences)


def _seeds(run: Mapping[str, Any]) -> tuple[int, int]:
    return run["config"]["seed"], run["config"]["order_seed"]


def _counted(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"
