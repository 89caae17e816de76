"""Tables, files and pictures of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

METRICS = ("A_T", "A_bar", "A_new", "forgetting")
Runs = Sequence[Mapping[str, Any]]


def mean_and_std(runs: Runs) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (0 for one run) of every metric."""
    table: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        values = np.array([r["metrics"][metric] for r in runs], dtype=np.float64)
        table[metric] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        }
    return table


def table(methods: Mapping[str, Runs], *, markdown: bool = False) -> str:
    """One row a method: the metrics in percent, mean ± std over seeds, and seconds a run."""
    header = ["method", "seeds", *METRICS, "seconds"]
    rows = [header]
    for label, runs in methods.items():
        summary = mean_and_std(runs)
        cells = [
            f"{summary[m]['mean']:.1f}" + (f" ± {summary[m]['std']:.1f}" if len(runs) > 1 else "")
            for m in METRICS
        ]
        seconds = np.mean([r["timing"]["total"] for r in runs])
        rows.append([label, str(len(runs)), *cells, f"{seconds:.0f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    if markdown:
        return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    return "\n".join("  ".join(line) for line in lines)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1, default=dict) + "\n")
    os.replace(temporary, path)


def plot_accuracy(methods: Mapping[str, Runs], path: Path) -> None:
    """Accuracy on all classes seen, after each experience; bands are one std over seeds."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (label, runs) in enumerate(methods.items()):
        curves = np.array([_overall(r) for r in runs])
        classes = runs[0]["classes_seen"]
        mean = curves.mean(axis=0)
        style = ("-" if "+" in label else "--") if i < 10 else ("-." if "+" in label else ":")
        colour = f"C{i % 10}"
        axes.plot(classes, mean, style, marker="o", markersize=3.5, color=colour, label=label)
        if len(curves) > 1:
            std = curves.std(axis=0, ddof=1)
            axes.fill_between(classes, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="classes seen", ylabel="top-1 accuracy on them (%)")
    axes.set_ylim(bottom=0, top=100)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=150)


def _overall(results: Mapping[str, Any]) -> list[float]:
    """Accuracy over all test images seen, after each experience."""
    n = np.array(results["test_images"], dtype=np.float64)
    rows = results["accuracy"]
    return [float(np.average(row, weights=n[: len(row)])) for row in rows]
