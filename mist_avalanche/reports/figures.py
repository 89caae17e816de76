"""Figures of runs, as wide as a column of a paper."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .labels import display_name
from .summary import Gain, Methods, Runs, gains

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.facecolor": "none",
    "grid.alpha": 0.3,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}
_WIDTH, _LINE = 3.3, 0.17  # inches: a column, a line of text
_COLOURS = [*mpl.color_sequences["tab20"][::2], *mpl.color_sequences["tab20"][1::2]]


class Drawing(NamedTuple):
    """A figure, its caption on the page, and the stem of its file name."""

    caption: str
    file: str
    figure: Figure


@mpl.rc_context(STYLE)
def write_figures(methods: Methods, folder: Path) -> list[Drawing]:
    """Write every figure as PNG and PDF to the subfolder ``figures`` of a folder.

    The figures are returned for :func:`~mist_avalanche.reports.write_page`.
    """
    drawn = drawings(methods)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for old in (folder / "figures").glob("*.p[nd][gf]"):
        old.unlink()  # may be from other methods
    for drawing in drawn:
        for suffix in ("png", "pdf"):
            drawing.figure.savefig(folder / "figures" / f"{drawing.file}.{suffix}", dpi=300)
    return drawn


@mpl.rc_context(STYLE)
def drawings(methods: Methods) -> list[Drawing]:
    """The figures of :func:`write_figures`, not yet written."""
    band = " (band: one standard deviation)" if any(len(r) > 1 for r in methods.values()) else ""
    drawn = [Drawing(f"Accuracy on all classes seen{band}", "accuracy", _curves(methods))]
    if found := gains(methods):
        caption = "Gain of MIST: each seed (grey); mean and, from three seeds on, 95 % interval"
        drawn.append(Drawing(caption, "gain", _gains(found)))
    for label, runs in methods.items():
        caption = f"Accuracy by experience: {display_name(label)}"
        drawn.append(Drawing(caption, f"matrix-{label}", _matrix(runs)))
    return drawn


def _curves(methods: Methods) -> Figure:
    """Accuracy on all classes seen after each experience; bands are one standard deviation."""
    columns = 2 if max(len(display_name(label)) for label in methods) <= 22 else 1
    figure, axes = _empty(2.3 + _LINE * math.ceil(len(methods) / columns))
    hosts = [*dict.fromkeys(label.removesuffix("+mist") for label in methods)]
    for label, runs in methods.items():
        curves = np.array([_curve(run) for run in runs])
        classes, mean = runs[0]["classes_seen"], curves.mean(axis=0)
        line = "o-" if "+" in label else "o--"
        colour = _COLOURS[hosts.index(label.removesuffix("+mist")) % len(_COLOURS)]
        axes.plot(classes, mean, line, c=colour, ms=2.5, lw=1.2, label=display_name(label))
        if len(runs) > 1:
            std = curves.std(axis=0, ddof=1)
            axes.fill_between(classes, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    if len(classes) <= 10:
        axes.set_xticks(classes)
    axes.set(xlabel="classes seen", ylabel="top-1 accuracy (%)")
    figure.legend(loc="outside lower center", frameon=False, ncols=columns, columnspacing=1)
    return figure


def _curve(run: Mapping[str, Any]) -> list[float]:
    """Accuracy over the test images of all classes seen, after each experience."""
    images = run["test_images"]
    return [float(np.average(row, weights=images[: len(row)])) for row in run["accuracy"]]


def _gains(found: Sequence[Gain]) -> Figure:
    """What MIST adds to each host: one point per seed, the mean, and its 95 % interval."""
    figure, axes = _empty(0.6 + 0.34 * len(found))
    axes.axvline(0, color="0.5", linewidth=1)
    for y, gain in enumerate(found):
        seeds, at = [y + 0.22] * len(gain.differences), float(y)
        if len(seeds) > 1:  # else the seed is the mean
            axes.plot(gain.differences, seeds, "o", color="0.5", ms=3.5)
            at -= 0.1
        axes.errorbar(gain.mean, at, xerr=gain.half_width, fmt="C0D", ms=4.5, capsize=3)
    names = [display_name(gain.label) for gain in found]
    axes.set_yticks(range(len(found)), [n.replace(") + ", ")\n+ ") for n in names])  # for grids
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="gain in $A_T$ (points)")
    return figure


def _matrix(runs: Runs) -> Figure:
    """Accuracy on the classes of each experience after each experience, mean over seeds."""
    n = len(runs[0]["accuracy"])
    matrix = np.full((n, n), np.nan)
    for t in range(n):
        matrix[t, : t + 1] = np.mean([run["accuracy"][t] for run in runs], axis=0)
    figure, axes = _empty(2.7)
    image = axes.imshow(matrix, vmin=0, vmax=100, extent=(0.5, n + 0.5, n + 0.5, 0.5))
    axes.locator_params(integer=True)
    axes.set(xlabel="classes of experience", ylabel="after experience")
    axes.grid(visible=False)
    if n <= 10:
        for t, i in np.argwhere(np.isfinite(matrix)):
            ink = "0.1" if matrix[t, i] > 60 else "white"  # not black, which the page recolours
            axes.text(i + 1, t + 1, f"{matrix[t, i]:.0f}", ha="center", va="center", color=ink)
    figure.colorbar(image, label="accuracy (%)", shrink=0.9)
    return figure


def _empty(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()
