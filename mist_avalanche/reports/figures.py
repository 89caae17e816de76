"""Figures of runs, as wide as a paper's column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils import atomic_write
from .labels import display_name
from .summary import Gain, Methods, Runs, gains

INK = "#101112"  # of text and axes; the page replaces it by its own text colour
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
    "svg.hashsalt": "mist_avalanche",  # the same figure makes the same file
    **dict.fromkeys(
        ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK
    ),
}
_WIDTH, _LINE = 3.3, 0.17  # inches: a column, a line of text
_TAB20 = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
_COLOURS = [*_TAB20[::2], *_TAB20[1::2]]


class Drawing(NamedTuple):
    """A figure, the section of the page that it belongs to, its caption, and its file's stem."""

    section: str
    caption: str
    file: str
    figure: Figure


def write_figures(methods: Methods, folder: Path) -> list[Drawing]:
    """Write every figure as PNG, SVG and PDF into ``figures`` in a folder.

    Args:
        methods: label to the results of its seeds.
        folder: in which ``figures`` is made.

    Returns:
        The figures, for :func:`~mist_avalanche.reports.write_page`.
    """
    drawn = drawings(methods)
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for drawing in drawn:
        for suffix, metadata in undated.items():
            file = folder / "figures" / f"{drawing.file}.{suffix}"
            with atomic_write(file) as temporary, mpl.rc_context(STYLE):
                drawing.figure.savefig(temporary, format=suffix, dpi=300, metadata=metadata)
    return drawn


@mpl.rc_context(STYLE)
def drawings(methods: Methods) -> list[Drawing]:
    """Every figure that the results have the numbers for, section by section."""
    drawn = [Drawing("Figures", "Accuracy on all classes seen", "accuracy", _curves(methods))]
    if found := gains(methods):
        drawn.append(Drawing("Figures", "Gain of MIST", "gain", _gains(found)))
    files = {label: re.sub(r"[^\w+.-]", "_", label) for label in methods}
    for label, runs in methods.items():
        name, file = display_name(label), f"matrix-{files[label]}"
        drawn.append(Drawing("Accuracy by experience", name, file, _matrix(runs)))
    for label, runs in methods.items():
        if rows := runs[0].get("mist", {}).get("layers"):
            share = f"{100 * runs[0]['mist']['selected_fraction']:.2f} % of all entries"
            name, file = f"{display_name(label)}: {share}", f"selection-{files[label]}"
            section = "Where MIST may change the backbone"
            drawn.append(Drawing(section, name, file, selection_figure(rows)))
    for drawing in drawn:  # the layout is fixed here; every format would compute it again
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")
    return drawn


def _curves(methods: Methods) -> Figure:
    """Accuracy on all classes seen after each experience; bands are one standard deviation."""
    figure, axes = _empty(2.3)
    hosts = [*dict.fromkeys(label.removesuffix("+mist") for label in methods)]
    for label, runs in methods.items():
        curves = np.array([_curve(run) for run in runs])
        classes, mean = runs[0]["classes_seen"], curves.mean(axis=0)
        line = "o-" if "+" in label else "o--"
        colour = _COLOURS[hosts.index(label.removesuffix("+mist")) % len(_COLOURS)]
        axes.plot(classes, mean, line, c=colour, ms=2.5, lw=1.2, label=display_name(label))
        if len(curves) > 1:
            std = curves.std(axis=0, ddof=1)
            axes.fill_between(classes, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="classes seen", ylabel="top-1 accuracy (%)")
    _add_legend(figure, axes)
    return figure


def _curve(run: Mapping[str, Any]) -> list[float]:
    """Accuracy over the test images of all classes seen, after each experience."""
    images = run["test_images"]
    return [float(np.average(row, weights=images[: len(row)])) for row in run["accuracy"]]


def _gains(found: Sequence[Gain]) -> Figure:
    """What MIST adds to each host: a point per seed, the mean, and its 95 % interval."""
    figure, axes = _empty(0.75 + 0.34 * len(found))
    axes.axvline(0, color="0.5", linewidth=1)
    for y, gain in enumerate(found):
        seeds, height = gain.differences, [y + 0.22] * len(gain.differences)
        bar, mean = gain.half_width, gain.mean
        dots = axes.plot(seeds, height, "o", color="0.5", ms=3.5)[0]
        diamond = axes.errorbar(mean, y - 0.1, xerr=bar, fmt="C0D", ms=4.5, capsize=3)
    dots.set_label("one seed")
    diamond.set_label("mean" if bar is None else "mean, 95 % interval")
    axes.set_yticks(range(len(found)), [display_name(gain.label) for gain in found])
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="gain in $A_T$ (points)")
    _add_legend(figure, axes)
    return figure


def _matrix(runs: Runs) -> Figure:
    """Accuracy on the classes of each experience after each experience, mean over seeds."""
    n = len(runs[0]["accuracy"])
    rows = [[[*row, *[np.nan] * (n - len(row))] for row in run["accuracy"]] for run in runs]
    matrix = np.mean(rows, axis=0)
    figure, axes = _empty(2.7)
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    ticks = range(0, len(matrix), -(-len(matrix) // 10))
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set(xlabel="classes of experience", ylabel="after experience")
    axes.grid(visible=False)
    if len(matrix) <= 10:
        for t, i in np.argwhere(np.isfinite(matrix)):
            ink = "black" if matrix[t, i] > 60 else "white"
            axes.text(i, t, f"{matrix[t, i]:.0f}", ha="center", va="center", color=ink)
    figure.colorbar(image, label="accuracy (%)", shrink=0.9)
    return figure


@mpl.rc_context(STYLE)
def selection_figure(rows: Sequence[Sequence[Any]]) -> Figure:
    """The share of the entries that MIST may change, by block and by kind of layer.

    Args:
        rows: one per parameter: name, selected entries, all entries, whether it is always selected.
            These are ``mist.selection.rows()``, and ``mist.layers`` of a results.json.
    """
    blocks: dict[str, list[int]] = {}
    kinds: dict[str, list[int]] = {}
    for name, selected, total, always in rows:
        block = re.search(r"[a-z_]\w*\.\d+(?=\.)", name)  # such as blocks.3
        inside = re.sub(r"[a-z_]\w*\.\d+\.|^(\d+\.)+", "", name)
        module = inside.rpartition(".")[0] or inside
        kind = "biases, scales" if always else module
        for groups, group in ((blocks, block[0] if block else module), (kinds, kind)):
            sums = groups.setdefault(group, [0, 0])
            sums[0] += selected
            sums[1] += total
    heights = [len(blocks) + 1, len(kinds) + 1]
    figure = Figure(figsize=(_WIDTH, 0.7 + _LINE * sum(heights)), layout="constrained")
    panels = figure.subplots(2, 1, height_ratios=heights)
    for axes, groups in zip(panels, (blocks, kinds), strict=True):
        shares = [100 * selected / total for selected, total in groups.values()]
        bars = axes.barh(range(len(shares)), shares)
        axes.bar_label(bars, [f"{selected:,}" for selected, _ in groups.values()], padding=2)
        axes.set_yticks(range(len(shares)), list(groups))
        axes.set(xlim=(0, 1.3 * max(shares) or 1), ylim=(len(shares) - 0.4, -0.6))
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 100])
    panels[-1].set_xlabel("entries that may change (%)")
    return figure


def _empty(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _add_legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, where it hides nothing; the figure grows by its height."""
    names = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names)) <= 22 else 1
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(names) // columns))
    figure.legend(loc="outside lower center", frameon=False, ncols=columns, columnspacing=1)
