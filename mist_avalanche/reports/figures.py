"""The pictures of runs: accuracy, and what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._support.figures import empty_figure, plain_label
from ..strategies.names import display_name
from .summary import Runs, mean_and_std


def accuracy_figure(methods: Mapping[str, Runs]) -> Figure:
    """Accuracy on all classes seen, after each experience; bands are one std over seeds."""
    figure = empty_figure(7, 4.2)
    axes = figure.add_subplot()
    for i, (label, runs) in enumerate(methods.items()):
        curves = np.array([_overall(r) for r in runs])
        classes = runs[0]["classes_seen"]
        mean = curves.mean(axis=0)
        style = "-" if "+" in label else "--"
        colour = _colour(i, len(methods))
        axes.plot(
            classes,
            mean,
            style,
            marker="o",
            markersize=3.5,
            color=colour,
            label=plain_label(display_name(label)),
        )
        if len(curves) > 1:
            std = curves.std(axis=0, ddof=1)
            axes.fill_between(classes, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="classes seen", ylabel="top-1 accuracy on them (%)")
    axes.set_ylim(bottom=0, top=100)
    axes.grid(alpha=0.3)
    _legend(figure, len(methods))
    return figure


def _legend(figure: Figure, n: int) -> None:
    """The names of n methods below the axes, where they hide nothing."""
    figure.set_figheight(figure.get_figheight() + 0.25 * -(-n // 4))
    figure.legend(loc="outside lower center", frameon=False, fontsize="small", ncols=4)


def _colour(i: int, n: int) -> Any:
    """A colour of its own for each of up to twenty methods."""
    return f"C{i}" if n <= 10 else colormaps["tab20"](i % 20)


def matrix_figure(label: str, runs: Runs) -> Figure:
    """Accuracy on the classes of each experience after each experience, mean over seeds."""
    matrix = mean_matrix(runs)
    figure = empty_figure(4.2, 3.6)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    ticks = range(len(matrix))
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set(
        xlabel="classes of experience",
        ylabel="after experience",
        title=plain_label(display_name(label)),
    )
    figure.colorbar(image, label="accuracy (%)")
    return figure


def mean_matrix(runs: Runs) -> NDArray[np.float64]:
    """(T, T): row t, accuracy in percent on the classes of experience i; NaN where not yet seen."""
    n = len(runs[0]["accuracy"])
    matrices = np.full((len(runs), n, n), np.nan)
    for matrix, results in zip(matrices, runs, strict=True):
        for t, row in enumerate(results["accuracy"]):
            matrix[t, : len(row)] = row
    mean: NDArray[np.float64] = matrices.mean(axis=0)
    return mean


def tradeoff_figure(methods: Mapping[str, Runs]) -> Figure:
    """Plasticity against stability: accuracy on the newest classes, and forgetting."""
    figure = empty_figure(7, 4.2)
    axes = figure.add_subplot()
    for i, (label, runs) in enumerate(methods.items()):
        new, lost = (mean_and_std(runs)[m] for m in ("A_new", "forgetting"))
        axes.errorbar(
            lost["mean"],
            new["mean"],
            xerr=lost["std"],
            yerr=new["std"],
            fmt="o" if "+" in label else "s",
            color=_colour(i, len(methods)),
            label=plain_label(display_name(label)),
            capsize=2,
        )
    axes.set(xlabel="forgetting (points)", ylabel="accuracy on the newest classes (%)")
    axes.grid(alpha=0.3)
    _legend(figure, len(methods))
    return figure


def _overall(results: Mapping[str, Any]) -> list[float]:
    """Accuracy over all test images seen, after each experience."""
    n = np.array(results["test_images"], dtype=np.float64)
    rows = results["accuracy"]
    return [float(np.average(row, weights=n[: len(row)])) for row in rows]
