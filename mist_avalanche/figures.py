"""The pictures of runs: accuracy, what is forgotten, and where MIST put its updates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .tables import Runs, mean_and_std

Rows = Sequence[Sequence[Any]]  # parameter, entries selected, entries, always


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(label: str) -> str:
    """A name that matplotlib shows as it is: no formula between dollar signs."""
    return label.replace("$", r"\$")


def accuracy_figure(methods: Mapping[str, Runs]) -> Figure:
    """Accuracy on all classes seen, after each experience; bands are one std over seeds."""
    figure = _figure(7, 4.2)
    axes = figure.add_subplot()
    for i, (label, runs) in enumerate(methods.items()):
        curves = np.array([_overall(r) for r in runs])
        classes = runs[0]["classes_seen"]
        mean = curves.mean(axis=0)
        style = "-" if "+" in label else "--"
        colour = _colour(i, len(methods))
        axes.plot(
            classes, mean, style, marker="o", markersize=3.5, color=colour, label=_plain(label)
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
    figure = _figure(4.2, 3.6)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    ticks = range(len(matrix))
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set(xlabel="classes of experience", ylabel="after experience", title=_plain(label))
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
    figure = _figure(7, 4.2)
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
            label=_plain(label),
            capsize=2,
        )
    axes.set(xlabel="forgetting (points)", ylabel="accuracy on the newest classes (%)")
    axes.grid(alpha=0.3)
    _legend(figure, len(methods))
    return figure


def selection_figure(rows: Rows, title: str = "") -> Figure:
    """Share of the entries that may move, by block of the backbone and by kind of tensor."""
    figure = _figure(7, 3.4)
    for axes, kind in zip(figure.subplots(1, 2), (_block, _kind), strict=True):
        selected: dict[str, int] = {}
        total: dict[str, int] = {}
        for name, chosen, size, always in rows:
            group = kind(name, always)
            selected[group] = selected.get(group, 0) + chosen
            total[group] = total.get(group, 0) + size
        shares = [100 * selected[g] / total[g] for g in total]
        axes.barh(range(len(shares)), shares, color="C0")
        axes.set_yticks(range(len(shares)), list(total))
        axes.invert_yaxis()
        axes.set_xlabel("entries that may move (%)")
        axes.grid(axis="x", alpha=0.3)
    if title:
        figure.suptitle(_plain(title))
    return figure


def _block(name: str, always: bool) -> str:
    """The numbered part of a backbone that a parameter belongs to, such as ``blocks.3``."""
    found = re.match(r"(.*?[a-z_]*\.\d+)\.", name)
    return (
        found[1].split(".", 1)[1]
        if found and found[1].count(".") > 1
        else (found[1] if found else name.rsplit(".", 1)[0])
    )


def _kind(name: str, always: bool) -> str:
    """What a parameter is: a bias or scale, or the weight of which layer."""
    if always:
        return "biases, scales"
    for kind in ("qkv", "proj", "fc1", "fc2", "conv", "embed"):
        if kind in name.rsplit(".", 1)[0].split(".")[-1]:
            return kind
    return "other weights"


def _overall(results: Mapping[str, Any]) -> list[float]:
    """Accuracy over all test images seen, after each experience."""
    n = np.array(results["test_images"], dtype=np.float64)
    rows = results["accuracy"]
    return [float(np.average(row, weights=n[: len(row)])) for row in rows]
