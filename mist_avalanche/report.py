"""Files and pictures of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .tables import Runs


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
