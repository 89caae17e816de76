"""``docs/evidence.md`` and its picture, from measured rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from scipy.stats import t as student

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from grid import JOINED, SMALL
from sets import SIZE, TITLES
from states import BLENDS

STRATEGIES = {"simplecil": "SimpleCIL", "ranpac": "RanPAC"}
PARTS = {
    "mist first": "**MIST**",
    "random mask": '`select_by="random"`',
    "magnitude": '`select_by="magnitude"`',
    "gradient": '`select_by="gradient"`',
    "cross-entropy": '`objective="cross_entropy"`',
    "ranked globally": '`ranking="global"`',
    "reference dynamics": '`dynamics="reference"`',
    "no dropping": "`drop_rate=0`",
    "select_rate 0.01": "`select_rate=0.01`",
    "select_rate 0.1": "`select_rate=0.1`",
    "dense, own lr": "`select_rate=1`, `drop_rate=0`, 0.0003",
    "tuned on cub": "tuned on birds",
    "tuned on cifar": "tuned on small photographs",
}
Row = dict[str, Any]


class Runs:
    """A_T and A_bar by method, set, strategy and seed, of the class order 1993."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.found: dict[tuple[str, str, str], dict[int, Row]] = defaultdict(dict)
        for row in rows:
            if not row["held_out"] and row["order"] == 1993:
                for strategy in ("simplecil", "ranpac", "simplecil+drift", "ranpac+drift"):
                    if strategy in row:
                        self.found[row["method"], row["set"], strategy][row["seed"]] = row[strategy]

    def values(self, method: str, name: str, strategy: str, key: str = "A_T") -> list[float]:
        """One figure per seed."""
        seeds = self.found.get((method, name, strategy), {})
        return [seeds[seed][key] for seed in sorted(seeds)]

    def gains(self, method: str, name: str, strategy: str, over: str = "frozen") -> list[float]:
        """A_T minus that of another method, by seed."""
        ours = self.found.get((method, name, strategy), {})
        base = self.found.get((over, name, strategy.split("+")[0]), {})
        return [ours[s]["A_T"] - base[s]["A_T"] for s in sorted(ours) if s in base]


def interval(values: list[float]) -> str:
    """Mean with the 95 % interval of Student's t; one or two values as they are."""
    if not values:
        return ""
    if len(values) < 3:
        return ", ".join(f"{value:+.1f}" for value in values)
    return f"{mean(values):+.1f} ± {half_width(values):.1f}"


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of Student's t; 0 for one or two values."""
    if len(values) < 3:
        return 0.0
    return float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown, without columns that are empty."""
    filled = [i for i in range(len(header)) if any(row[i] for row in rows)]
    header, rows = [header[i] for i in filled], [[row[i] for i in filled] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def headline(runs: Runs) -> list[str]:
    """Frozen and MIST before the first experience, all sets."""
    rows = []
    for name, title in TITLES.items():
        for strategy, label in STRATEGIES.items():
            cells = [title, label]
            for method in ("frozen", "mist first"):
                values = [runs.values(method, name, strategy, k) for k in ("A_T", "A_bar")]
                cells.append(" / ".join(f"{mean(v):.1f}" for v in values))
            cells.append(interval(runs.gains("mist first", name, strategy)))
            rows.append(cells)
    header = ["data", "strategy", "frozen, A_T / A_bar", "+ MIST", "gain of A_T"]
    return table(header, rows)


def joined(states: Iterable[Row], name: str, strategy: str) -> tuple[float, list[float]]:
    """A_T of the frozen backbone and, one per seed, of joined features, at 224 pixels."""
    rows = [r for r in states if (r["set"], r["size"], r["held_out"]) == (name, SIZE, False)]
    (frozen,) = (row["A_T"]["frozen"] for row in rows if row["mist"] is None)
    once = sorted((row for row in rows if row["mist"] == JOINED), key=lambda row: row["seed"])
    values = [mean(_draws(row["A_T"]["joined"][strategy])) for row in once]
    return mean(_draws(frozen[strategy])), values


def default(states: Iterable[Row]) -> list[str]:
    """Frozen and with the default settings."""
    rows = []
    for name, title in TITLES.items():
        cells = [title]
        for strategy in STRATEGIES:
            frozen, values = joined(states, name, strategy)
            gains = interval([value - frozen for value in values])
            cells += [f"{frozen:.1f}", f"{mean(values):.1f}", gains]
        rows.append(cells)
    header = [part for label in STRATEGIES.values() for part in (label, "+ MIST", "gain")]
    return table(["data", *header], rows)


def tuned(runs: Runs) -> list[str]:
    """Frozen and with tuned features at the rate of 0.003, on the same seeds."""
    rows = []
    for name, title in TITLES.items():
        cells = [title]
        for strategy in STRATEGIES:
            tuned = runs.values("mist default", name, strategy)
            gains = runs.gains("mist default", name, strategy)
            frozen = mean(tuned) - mean(gains)
            cells += [f"{frozen:.1f}", f"{mean(tuned):.1f}", interval(gains)]
        rows.append(cells)
    header = [part for label in STRATEGIES.values() for part in (label, "+ MIST", "gain")]
    return table(["data", *header], rows)


def every(runs: Runs) -> list[str]:
    """MIST before every experience, with and without drift compensation."""
    rows = []
    for name, title in TITLES.items():
        for strategy, label in STRATEGIES.items():
            kinds = (("mist first", ""), ("mist every", ""), ("mist every", "+drift"))
            cells = [interval(runs.gains(m, name, strategy + d)) for m, d in kinds]
            if cells[1]:
                rows.append([title, label, *cells])
    return table(["data", "strategy", "first", "every", "every, drift compensated"], rows)


def parts(runs: Runs, names: list[str]) -> list[str]:
    """What each part contributes on the sets where MIST gains most."""
    others = (
        "frozen",
        "frozen, probed",
        "mist every",
        "mist default",
        "mist suggested",
        "lora",
        "projection first",
    )
    methods = [m for m, n, _ in runs.found if n == names[0] and m not in others]
    columns = [(n, s) for n in names for s in STRATEGIES]
    rows = []
    for method in dict.fromkeys(methods):
        gains = [runs.gains(method, n, s) for n, s in columns]
        rows.append([PARTS[method], *(interval(g) for g in gains)])
    rows.sort(key=lambda row: -float(row[1].split()[0].rstrip(",")))
    return table(_heads(columns), rows)


def paired(runs: Runs, names: list[str]) -> list[str]:
    """MIST minus what it is compared with, by seed."""
    others = ("random mask", "magnitude", "gradient", "cross-entropy", "dense, own lr")
    columns = [(n, s) for n in names for s in STRATEGIES]
    lines = [
        [f"MIST less {o}", *(interval(runs.gains("mist first", n, s, o)) for n, s in columns)]
        for o in others
    ]
    return table(_heads(columns), lines)


def plain(runs: Runs, names: list[str]) -> list[str]:
    """MIST, LoRA of equal size and every weight, each at its own learning rate."""
    methods = {
        "mist first": "MIST",
        "lora": "LoRA",
        "dense, own lr": "every weight, by MIST's loss",
    }
    columns = [(n, s) for n in names for s in STRATEGIES]
    lines = [[label, *(_gain(runs, m, n, s) for n, s in columns)] for m, label in methods.items()]
    return table(_heads(columns), lines)


def probes(runs: Runs, rows: list[Row]) -> list[str]:
    """SimpleCIL, RanPAC and a linear classifier of all classes at once, on the frozen backbone."""
    found = {row["set"]: row["probe"] for row in rows if row.get("probe") and not row["held_out"]}
    lines = []
    for name, title in TITLES.items():
        accuracies = [mean(runs.values("frozen", name, s)) for s in STRATEGIES]
        probe = f"{found[name]:.1f}" if name in found else "not measured"
        lines.append([title, *(f"{a:.1f}" for a in accuracies), probe])
    return table(["data", *STRATEGIES.values(), "linear probe of all classes"], lines)


def beyond(rows: Iterable[Row]) -> list[str]:
    """Options minus the same MIST without them, on held-out training images of cars, by seed."""
    found: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row["held_out"] == 10 and row["method"] != "frozen":
            found[row["method"]][row["seed"]] = row
    plain = found.pop("mist, again", {})
    lines = []
    for method, seeds in found.items():
        cells = [re.sub(r"(epochs?) later", r"later \1", method.replace("every,", "moved,"))]
        for strategy in STRATEGIES:
            key = strategy + ("+drift" if strategy + "+drift" in seeds[min(seeds)] else "")
            gains = [seeds[s][key]["A_T"] - plain[s][strategy]["A_T"] for s in sorted(seeds)]
            cells.append(interval(gains))
        lines.append((mean(gains), cells))
    ordered = [cells for _, cells in sorted(lines, key=lambda line: -line[0])]
    return table(["option", *STRATEGIES.values()], ordered)


def by_rate(rows: Iterable[Row]) -> list[str]:
    """A_T of statistics left stale, moved and computed again, by learning rate; one per seed."""
    found: dict[tuple[str, float], dict[int, Row]] = defaultdict(dict)
    frozen: dict[str, Row] = {}
    for row in rows:
        if row["size"] == SMALL and not row["held_out"]:
            if row["mist"] is None:
                frozen[row["set"]] = row["A_T"]["frozen"]
            elif row["mist"]["tune_on"] == "every":
                found[row["set"], row["mist"]["lr"]][row["seed"]] = row["A_T"]
    lines = []
    for strategy, label in STRATEGIES.items():
        for (name, lr), seeds in sorted(found.items(), key=lambda item: _order(*item[0])):
            start = mean(_draws(frozen[name][strategy])) if name in frozen else None
            cells = [
                ", ".join(f"{mean(_draws(seeds[s][kind][strategy])):.1f}" for s in sorted(seeds))
                for kind in ("first", "every", "drift", "refit")
            ]
            shown = "" if start is None else f"{start:.1f}"
            lines.append([TITLES[name].split(" (")[0], label, f"{lr:g}", shown, *cells])
    heads = ["data", "strategy", "learning rate", "frozen", "first", "every", "moved", "refit"]
    return table(heads, lines)


def maps(rows: Iterable[Row]) -> list[str]:
    """A_T by how stored features were moved, on held-out training images; one column per rate."""
    found = {
        row["mist"]["lr"]: row["A_T"] for row in rows if row["held_out"] and "refit" in row["A_T"]
    }
    kinds = {
        "tuned once": "first",
        "not moved": "every",
        "mean shift": "mean shift",
        "shift of near images (SDC)": "near shift",
        "affine, one view": "affine, one view",
        "affine, 8 views (this package)": "drift",
        "kernel regression, 8 views": "curved",
        "computed again": "refit",
    }
    lines = []
    for label, kind in kinds.items():
        cells = [
            f"{mean(_draws(found[lr][kind][strategy])):.1f}"
            for lr in sorted(found)
            for strategy in STRATEGIES
        ]
        lines.append([label, *cells])
    heads = [f"{label}, {lr:g}" for lr in sorted(found) for label in STRATEGIES.values()]
    return table(["statistics", *heads], lines)


def side_by_side(rows: Iterable[Row], *, held_out: bool, size: int) -> list[str]:
    """A_T of frozen, tuned, joined features; of weights between frozen and tuned, or controls."""
    kinds = ["first", "joined"]
    controls = ["random mask, joined", "mirrored, joined", "twice M"]
    kinds += [f"blend {share}" for share in BLENDS] if held_out else controls
    plain: dict[tuple[str, int], Row] = {}
    random: dict[str, dict[int, Row]] = defaultdict(dict)
    found: dict[tuple[str, float], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row["size"] == size and row["held_out"] == held_out:
            if row["mist"] is None:
                plain[row["set"], row["seed"]] = row["A_T"]
            elif "select_by" in row["mist"]:
                random[row["set"]][row["seed"]] = {"random mask, joined": row["A_T"]["joined"]}
            elif "joined" in row["A_T"]:
                found[row["set"], row["mist"]["lr"]][row["seed"]] = row["A_T"]
    lines = []
    for (name, lr), seeds in sorted(found.items(), key=lambda item: _order(*item[0])):
        for strategy, label in STRATEGIES.items():
            # a frozen backbone has no seed, but the split of held-out images does
            both = {
                s: {**plain[name, s * held_out], **seeds[s], **random[name].get(s, {})}
                for s in sorted(seeds)
            }
            base = {s: mean(_draws(row["frozen"][strategy])) for s, row in both.items()}
            cells = [TITLES[name].split(" (")[0], label, f"{lr:g}", f"{mean(base.values()):.1f}"]
            for kind in kinds:
                having = [s for s in both if kind in both[s]]
                if kind in controls[1:]:
                    having = having[:1]
                gains = [mean(_draws(both[s][kind][strategy])) - base[s] for s in having]
                cells.append(interval(gains))
            lines.append(cells)
    return table(["data", "strategy", "learning rate", "frozen", "tuned", *kinds[1:]], lines)


def _order(name: str, lr: float) -> tuple[int, float]:
    return [*TITLES].index(name), lr


def _draws(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def _gain(runs: Runs, method: str, name: str, strategy: str) -> str:
    return interval(runs.gains(method, name, strategy)) or "not measured"


def _heads(columns: list[tuple[str, str]]) -> list[str]:
    return ["", *(f"{TITLES[n].split(' ')[0]}, {STRATEGIES[s]}" for n, s in columns)]


def choices(rows: Iterable[Row]) -> list[str]:
    """Accuracy on held-out training images by learning rate, on which settings were chosen."""
    found: dict[tuple[str, float], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    order = {"frozen": "frozen", "mist": "MIST", "dense": "dense", "lora": "LoRA"}
    for row in rows:
        if row["held_out"] == 2 and row["method"] in order:
            lr = (row["mist"] or row.get("lora") or {"lr": 0.0})["lr"]
            found[row["method"], lr][row["set"]].append(row["simplecil"]["A_T"])
    lines = []
    for method, lr in sorted(found, key=lambda key: ([*order].index(key[0]), key[1])):
        means = [mean(v) if (v := found[method, lr][name]) else None for name in TITLES]
        cells = ["" if m is None else f"{m:.1f}" for m in means]
        whole = [m for m in means if m is not None]
        cells.append(f"{mean(whole):.1f}" if len(whole) == len(means) else "")
        lines.append([order[method] + (f", lr {lr:g}" if lr else ""), *cells])
    return table(["", *(t.split(" ")[0] for t in TITLES.values()), "mean"], lines)


def picture(runs: Runs, states: list[Row], file: Path) -> None:
    """Gain against the frozen backbone's accuracy: seeds as points, mean and 95 % interval."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    of_strategy = {"simplecil": ("o", "#1f5fa8"), "ranpac": ("s", "#c2571a")}
    labels = ("tuned features, learning rate 0.003", "features before and after, 0.01 (default)")
    for strategy, (marker, color) in of_strategy.items():
        for name, title in TITLES.items():
            x, values = joined(states, name, strategy)
            both = runs.gains("mist default", name, strategy), [value - x for value in values]
            for filled, gains in enumerate(both):
                at = x + (0.7 if filled else -0.7)
                face = color if filled else "none"
                axes.plot([at] * len(gains), gains, marker, ms=4, color=color, mfc=face, alpha=0.6)
                bar = half_width(gains) or None
                axes.errorbar(at, mean(gains), bar, fmt="_", ms=12, capsize=3, color=color)
            text = title.split(" (")[0]
            look = {"textcoords": "offset points", "fontsize": 8, "color": color}
            if strategy == "ranpac":
                top = mean(gains) + half_width(gains)
                axes.annotate(text, (x + 0.7, top), (-4, 5), **look)
            else:
                axes.annotate(text, (x - 0.7, mean(gains)), (-11, -8), ha="right", **look)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xlim(12, 97)
    axes.set_xlabel("A_T of the frozen backbone (%), the two settings side by side")
    axes.set_ylabel("gain in A_T from MIST before\nthe first experience (points)")
    axes.set_title("DeiT-Tiny, 224 pixels, 10 experiences", fontsize=9, loc="left")
    for strategy, (marker, color) in of_strategy.items():
        axes.plot([], [], marker, color=color, label=STRATEGIES[strategy])
    for filled, label in enumerate(labels):
        axes.plot([], [], "D", color="0.3", mfc="0.3" if filled else "none", label=label)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def write(rows: list[Row], states: list[Row], document: Path) -> None:
    """The page and its picture: ``evidence.md`` with the tables where it names them.

    Other tables, whose figures the text quotes, are printed.
    """
    runs = Runs(rows)
    picture(runs, states, document.with_suffix(".png"))
    text = (Path(__file__).parent / "evidence.md").read_text()
    for mark, lines in {
        "headline": headline(runs),
        "default": default(states),
        "tuned": tuned(runs),
        "every": every(runs),
        "parts": parts(runs, ["cars", "omniglot"]),
        "paired": paired(runs, ["cars", "omniglot"]),
        "plain": plain(runs, ["cars", "omniglot"]),
        "probes": probes(runs, rows),
        "choices": choices(rows),
        "beyond": beyond(rows),
        "by rate": by_rate(states),
        "maps": maps(states),
        "joined": side_by_side(states, held_out=False, size=SIZE),
        "joined, held out": side_by_side(states, held_out=True, size=SMALL),
    }.items():
        if f"[{mark}]\n" in text:
            text = text.replace(f"[{mark}]\n", "\n".join(lines) + "\n")
        else:
            print(f"{mark}:", *lines, sep="\n")
    document.write_text(text)
