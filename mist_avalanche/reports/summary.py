"""Summaries of runs, in numbers and in a sentence."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from scipy import stats

from .labels import display_name, host_of, is_upper_bound

Runs: TypeAlias = Sequence[Mapping[str, Any]]  # one results.json per seed
Methods: TypeAlias = Mapping[str, Runs]  # by label

_FEW = 1000  # test images; below this, one point is fewer than ten images
METRICS = ("A_T", "A_bar", "A_new", "forgetting")


def mean_and_std(runs: Runs) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation (None for one run) of every metric over seeds."""
    found = {}
    for metric in METRICS:
        values = [float(run["metrics"][metric]) for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else None
        found[metric] = {"mean": statistics.fmean(values), "std": std}
    return found


def check_same_data(methods: Methods) -> None:
    """Raise a ValueError if runs have different images, classes or weights.

    Class names depend on their order, and the images of a custom benchmark may, too.
    """
    first: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for label, run in ((label, run) for label, runs in methods.items() for run in runs):
        config, name = run["config"], f"{display_name(label)}, seed {run['config']['seed']}"
        order = config["order_seed"], config.get("experiences")
        images = order if ":" in config.get("benchmark", "") else ()
        weights = config.get("backbone"), config.get("image_size")
        alike = {"class_names": order, "training_images": images, "test_images": images}
        for what, by in {**alike, "backbone": weights}.items():
            digest = run.get("digests", {}).get(what)
            other, expected = first.setdefault((what, *by), (name, digest))
            if digest != expected:
                raise ValueError(
                    f"{other} and {name} cannot be in one table: their {what} differ "
                    f"({expected} and {digest}). Run them again (--overwrite)."
                )


def best(methods: Methods, metric: str) -> list[str]:
    """The methods with the best mean, rounded as in the tables; none if all means are equal.

    Upper bounds (joint, cumulative) are excluded. No method is marked as best at forgetting,
    because a method that has learned nothing forgets nothing.
    """
    means = {
        label: round(statistics.fmean(run["metrics"][metric] for run in runs), 1)
        for label, runs in methods.items()
        if not is_upper_bound(label)
    }
    if len({*means.values()}) < 2 or metric == "forgetting":
        return []
    return [label for label, mean in means.items() if mean == max(means.values())]


def setting(methods: Methods) -> dict[str, Any]:
    """Setting of the accuracies: experiences, classes in each, test images after the last one."""
    run = next(iter(methods.values()))[0]
    seen = run["classes_seen"]
    return {
        "experiences": len(seen),
        "of_experiences": run["config"].get("experiences", len(seen)),
        "classes": [n - m for n, m in zip(seen, [0, *seen], strict=False)],
        "test_images": sum(run["test_images"]),
    }


def environment(methods: Methods) -> dict[str, str]:
    """Versions and machines of the runs; if they differ, joined by "or"."""
    made = [run["environment"] for runs in methods.values() for run in runs]
    return {name: " or ".join(sorted({str(one.get(name)) for one in made})) for name in made[0]}


def benchmark_of(config: Mapping[str, Any]) -> str:
    """The benchmark of a run and its arguments, such as ``glyphs (shift=2)``."""
    arguments = ", ".join(f"{k}={v}" for k, v in config.get("benchmark_args", {}).items())
    return f"{config['benchmark']} ({arguments})" if arguments else str(config["benchmark"])


def described(methods: Methods) -> str:
    """:func:`setting` in words, joined features, and any versions and machines that differ."""
    found = setting(methods)
    n, all_of_them, sizes = found["experiences"], found["of_experiences"], found["classes"]
    which = f"{n} experiences" if n == all_of_them else f"{n} of {all_of_them} experiences"
    each = f"{sizes[0]}" if len({*sizes}) == 1 else f"{', '.join(map(str, sizes))}"
    counts = sorted({sum(run["test_images"]) for runs in methods.values() for run in runs})
    images = " or ".join(f"{count:,}" for count in counts)
    config = next(iter(methods.values()))[0]["config"]
    text = (
        f"After {which} with {each} classes each, on {images} test images of "
        f"{benchmark_of(config)}; backbone: {config['backbone']}."
    )
    joined = [
        display_name(label)
        for label, (run, *_) in methods.items()
        if run["config"]["mist"]
        and run["config"].get("strategy_args", {}).get("joined")
        and "joined" not in label
    ]
    if joined:
        text += f" By features before and after tuning: {', '.join(joined)}."
    several = [f"{n} {v}" for n, v in environment(methods).items() if " or " in v]
    return f"{text} Runs differ in {'; '.join(several)}." if several else text


def costs(runs: Runs) -> dict[str, float | None]:
    """Means over runs; None if unknown.

    Wall-clock seconds; seconds of the CPU (all cores) or of the GPU that the run used exclusively;
    peak GPU memory in bytes; numbers of entries trained, added to the backbone and stored for later
    experiences; number of stored images; updated share of the backbone.
    """
    rows = [_cost(run) for run in runs]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {n: None if None in c else statistics.fmean(c) for n, c in columns.items()}


def _cost(run: Mapping[str, Any]) -> dict[str, Any]:
    sizes, timing, on_gpu = run["parameters"], run["timing"], run["memory"] is not None
    images, bound = sum(run.get("training_images", ())), is_upper_bound(run["config"]["strategy"])
    memory = run["config"].get("strategy_args", {}).get("mem_size", 0)
    return {
        "seconds": timing["total"],
        "cpu_seconds": None if on_gpu else timing.get("cpu"),
        "gpu_seconds": timing["total"] if on_gpu else None,
        "memory": run["memory"],
        **{name: sizes.get(name) for name in ("trained", "added", "stored")},
        "stored_images": images if bound else min(memory, images or memory),
        "updated_share": sizes["updated"] / max(1, sizes["backbone"]),
    }


class Gain(NamedTuple):
    """A method with MIST minus the same method without it, in points of A_T."""

    label: str
    host: str
    differences: list[float]  # by seed
    mean: float
    half_width: float | None  # of the mean's 95 % interval (Student's t); None for 1 or 2 seeds


def gains(methods: Methods) -> list[Gain]:
    """Gains of all methods with MIST whose host was run, too; paired by seed and class order."""
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
    """The result of a comparison: which method is best, and what MIST adds."""
    winners = best(methods, "A_T")
    below = " below the upper bound" if any(map(is_upper_bound, methods)) else ""
    verb = "has" if len(winners) == 1 else "share"
    claim = f"{verb} the highest A_T{below}:" if winners else "has an A_T of"
    shown = winners or [*methods][:1]
    runs = methods[shown[0]]
    a_t, config = mean_and_std(runs)["A_T"], runs[0]["config"]
    spread = "" if a_t["std"] is None else f" ± {a_t['std']:.1f}"
    number = f"{a_t['mean']:.1f}{spread} % over {_counted(len(runs))}"
    if config.get("first") is not None:
        number += f" after {config['first']} of {config['experiences']} experiences"
    n_images = setting(methods)["test_images"]
    sentences = [f"{' and '.join(map(display_name, shown))} {claim} {number}."]
    for gain in gains(methods):
        if gain.label.split("+")[1].partition("@")[0] == "mist":  # and not an ablation
            host = display_name(gain.host)
            added = display_name(gain.label).removeprefix(f"{host} + ")
            rounded = round(gain.mean, 1)
            verb = "gains" if rounded > 0 else "loses" if rounded < 0 else "neither gains nor loses"
            interval = "no interval"
            if gain.half_width is not None:
                low, high = gain.mean - gain.half_width, gain.mean + gain.half_width
                interval = f"95 % interval {low:+.1f} to {high:+.1f}"
            seeds = _counted(len(gain.differences))
            points = f" {abs(gain.mean):.1f} points" if rounded else ""
            points += f" ({interval}, {seeds}"
            if n_images < _FEW:
                each = "" if len(gain.differences) == 1 else " per seed"
                points += f"; {abs(gain.mean) * n_images / 100:.0f} of {n_images} test images{each}"
            sentences.append(f"With {added}, {host} {verb}{points}).")
    if any("@" in label for label in methods):
        sentences.append(
            "Values of a grid were compared on test images, so the best of them is favoured; "
            "`mist-avalanche suggest` chooses on training images."
        )
    return " ".join(sentences)


def _seeds(run: Mapping[str, Any]) -> tuple[int, int]:
    return run["config"]["seed"], run["config"]["order_seed"]


def _counted(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"
