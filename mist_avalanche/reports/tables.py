"""Runs as tables: one row a method, for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .._support.disk import replacing

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


def table(methods: Mapping[str, Runs], style: str = "simple") -> str:
    """One row a method.

    Metrics in percent, mean ± std over seeds; seconds a run; entries of the model that may be
    trained, and entries of the backbone that are not as they were.

    Args:
        methods: name to the results of its seeds.
        style: a format of tabulate, such as ``"simple"``, ``"pipe"`` or ``"latex_booktabs"``.
    """
    rows = []
    for label, runs in methods.items():
        summary = mean_and_std(runs)
        cells = [
            f"{summary[m]['mean']:.1f}" + (f" ± {summary[m]['std']:.1f}" if len(runs) > 1 else "")
            for m in METRICS
        ]
        spent = ["" if v is None else f"{v:.0f}" for v in costs(runs).values()]
        rows.append([label, str(len(runs)), *cells, *spent])
    header = ["method", "seeds", *METRICS, *COSTS]
    text: str = tabulate(
        rows,
        header,
        tablefmt=style,
        disable_numparse=True,
        colalign=["left", *["right"] * (len(header) - 1)],
    )
    return text


def as_csv(methods: Mapping[str, Runs]) -> str:
    """One line a method, with numbers in full: ``A_T``, ``A_T_std`` and so on."""
    out = io.StringIO()
    names = [name for m in METRICS for name in (m, f"{m}_std")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "seeds", *names, *COSTS])
    for label, runs in methods.items():
        summary = mean_and_std(runs)
        values = [value for m in METRICS for value in (summary[m]["mean"], summary[m]["std"])]
        writer.writerow([label, len(runs), *values, *costs(runs).values()])
    return out.getvalue()


def write_tables(methods: Mapping[str, Runs], folder: Path, name: str) -> Path:
    """``NAME.md``, ``.tex``, ``.csv`` and ``.json``; returns the first."""
    content = {
        "md": table(methods, "pipe") + "\n",
        "tex": table(methods, "latex_booktabs").replace("±", r"$\pm$") + "\n",
        "csv": as_csv(methods),
        "json": json.dumps(
            {
                label: {"seeds": len(runs), "metrics": mean_and_std(runs), **costs(runs)}
                for label, runs in methods.items()
            },
            indent=1,
        )
        + "\n",
    }
    for suffix, text in content.items():
        with replacing(folder / f"{name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / f"{name}.md"
