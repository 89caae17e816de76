"""The pictures of runs, a column wide: accuracy, what is forgotten, what MIST adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .._support.figures import COLUMN, empty_figure, plain_label, readable
from ..strategies.names import display_name
from .gains import Gain
from .summary import Runs, mean_and_std

_LINE = 0.17  # inches a line of text takes


def accuracy_figure(methods: Mapping[str, Runs]) -> Figure:
    """Accuracy on all classes seen, after each experience; bands are one std over seeds."""
    figure = empty_figure(COLUMN, 2.3)
    axes = figure.add_subplot()
    for label, runs in methods.items():
        curves = np.array([_overall(r) for r in runs])
        classes = runs[0]["classes_seen"]
        mean = curves.mean(axis=0)
        line = "-" if "+" in label else "--"
        style: dict[str, Any] = {"marker": "o", "markersize": 2.5, "linewidth": 1.2}
        style |= {"color": colour(label, methods), "label": _name(label)}
        axes.plot(classes, mean, line, **style)
        if len(curves) > 1:
            std = curves.std(axis=0, ddof=1)
            shade = {"color": colour(label, methods), "alpha": 0.15, "linewidth": 0}
            axes.fill_between(classes, mean - std, mean + std, **shade)
    axes.set(xlabel="classes seen", ylabel="top-1 accuracy (%)")
    axes.set_ylim(0, min(102, 1.05 * axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    legend(figure)
    return readable(figure)


def tradeoff_figure(methods: Mapping[str, Runs]) -> Figure:
    """Plasticity against stability: accuracy on the newest classes, and forgetting."""
    figure = empty_figure(COLUMN, 2.3)
    axes = figure.add_subplot()
    for label, runs in methods.items():
        new, lost = (mean_and_std(runs)[m] for m in ("A_new", "forgetting"))
        axes.errorbar(
            lost["mean"],
            new["mean"],
            xerr=lost["std"] if len(runs) > 1 else None,
            yerr=new["std"] if len(runs) > 1 else None,
            fmt="o" if "+" in label else "s",
            markerfacecolor=None if "+" in label else "none",
            color=colour(label, methods),
            label=_name(label),
            markersize=5,
            capsize=2,
        )
    axes.margins(0.12)
    axes.set(xlabel="forgetting (points)", ylabel="accuracy, newest classes (%)")
    axes.grid(alpha=0.3)
    legend(figure)
    return readable(figure)


def gain_figure(found: Sequence[Gain]) -> Figure:
    """What MIST adds to each host: a point a seed, the mean, and its 95 % interval."""
    figure = empty_figure(COLUMN, 0.75 + 0.34 * len(found))
    axes = figure.add_subplot()
    axes.axvline(0, color="0.5", linewidth=1)
    for y, gain in enumerate(found):
        seeds = [y + 0.22] * len(gain.differences)
        axes.plot(gain.differences, seeds, "o", color="0.5", alpha=0.8, markersize=3.5)
        half: dict[str, Any] = {} if gain.half is None else {"xerr": gain.half, "capsize": 3}
        if len(gain.differences) > 1:
            axes.errorbar(gain.mean, y - 0.1, fmt="D", color="C0", markersize=4.5, **half)
    axes.plot([], [], "o", color="0.5", markersize=3.5, label="a seed")
    if any(len(gain.differences) > 1 for gain in found):
        interval = "" if any(gain.half is None for gain in found) else ", 95 % interval"
        axes.plot([], [], "D", color="C0", markersize=4.5, label=f"mean{interval}")
    axes.set_yticks(range(len(found)), [_name(gain.label) for gain in found])
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="gain in $A_T$ over the host (points)")
    axes.grid(axis="x", alpha=0.3)
    legend(figure)
    return readable(figure)


def matrix_figure(label: str, runs: Runs) -> Figure:
    """Accuracy on the classes of each experience after each experience, mean over seeds."""
    names = {"xlabel": "classes of experience", "ylabel": "after experience"}
    return _heat_map(mean_matrix(runs), "accuracy (%)", title=_name(label), **names)


def confusion_figure(label: str, runs: Runs) -> Figure:
    """Of the images of each experience, the share taken for classes of each, mean over seeds."""
    names = {"xlabel": "predicted class of experience", "ylabel": "class of experience"}
    return _heat_map(mean_confusion(runs), "images (%)", title=_name(label), **names)


def _heat_map(matrix: NDArray[np.float64], what: str, **names: str) -> Figure:
    """A square of percentages by experience."""
    figure = empty_figure(COLUMN, 2.9)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    ticks = range(0, len(matrix), -(-len(matrix) // 10))
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    if len(matrix) <= 10:
        for t, k in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            ink = "black" if matrix[t, k] > 60 else "white"
            axes.text(k, t, f"{matrix[t, k]:.0f}", ha="center", va="center", color=ink)
    axes.set(**names)
    figure.colorbar(image, label=what, shrink=0.9)
    return readable(figure)


def mean_matrix(runs: Runs) -> NDArray[np.float64]:
    """(T, T): row t, accuracy in percent on the classes of experience i; NaN where not yet seen."""
    n = len(runs[0]["accuracy"])
    matrices = np.full((len(runs), n, n), np.nan)
    for matrix, results in zip(matrices, runs, strict=True):
        for t, row in enumerate(results["accuracy"]):
            matrix[t, : len(row)] = row
    mean: NDArray[np.float64] = matrices.mean(axis=0)
    return mean


def mean_confusion(runs: Runs) -> NDArray[np.float64]:
    """(T, T): row i, percent of the images of experience i taken for classes of experience j."""
    counts = np.array([r["confusion"]["experiences"] for r in runs], dtype=np.float64)
    images = np.array([r["test_images"] for r in runs], dtype=np.float64)
    mean: NDArray[np.float64] = 100 * (counts / images[:, :, None]).mean(axis=0)
    return mean


def loss_figure(methods: Mapping[str, Runs]) -> Figure:
    """The loss of MIST's tuning by epoch, of the first seed; a line an experience it tunes on."""
    figure = empty_figure(COLUMN, 2.1)
    axes = figure.add_subplot()
    for i, (label, runs) in enumerate(methods.items()):
        curves = runs[0]["mist"]["losses"]
        dash = (0, (1, 1 + 2 * i)) if i else "-"  # what lies below another shows through
        for t, losses in enumerate(curves):
            style: dict[str, Any] = {
                "color": colour(label, methods),
                "alpha": 1 - 0.8 * t / len(curves),
            }
            name: dict[str, Any] = {} if t else {"label": _name(label)}
            axes.plot(range(1, len(losses) + 1), losses, ls=dash, linewidth=1.2, **style, **name)
            if len(losses) == 1:
                axes.plot(1, losses[0], "o", markersize=3, **style)
    axes.set(xlabel="epoch of tuning", ylabel="mean loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    legend(figure)
    return readable(figure)


def legend(figure: Figure) -> None:
    """The names of methods below the axes, where they hide nothing."""
    names = figure.axes[0].get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names), default=0) <= 22 else 1
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(names) // columns))
    figure.legend(loc="outside lower center", frameon=False, ncols=columns, columnspacing=1)


def colour(label: str, methods: Mapping[str, Any]) -> Any:
    """A colour for each of up to twenty methods; a host and its ``+mist`` share one."""
    keys = [*dict.fromkeys(name.removesuffix("+mist") for name in methods)]
    i, n = keys.index(label.removesuffix("+mist")), len(keys)
    return f"C{i}" if n <= 10 else colormaps["tab20"](i % 20)


def _name(label: str) -> str:
    return plain_label(display_name(label))


def _overall(results: Mapping[str, Any]) -> list[float]:
    """Accuracy over all test images seen, after each experience."""
    n = np.array(results["test_images"], dtype=np.float64)
    rows = results["accuracy"]
    return [float(np.average(row, weights=n[: len(row)])) for row in rows]
