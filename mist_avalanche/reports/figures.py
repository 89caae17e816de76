"""Figures of runs, as wide as a paper's column, each with its content in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils import atomic_write
from .labels import display_name
from .summary import Methods, Runs, gains, mean_and_std

INK = "#101112"  # of text and axes; the page replaces it by its own text colour
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.grid": True,
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
_TAB20 = colormaps["tab20"].colors  # type: ignore[attr-defined]
_COLOURS = [*_TAB20[::2], *_TAB20[1::2]]


class Drawing(NamedTuple):
    """A figure, the section of the page it belongs to, its title, its content in words."""

    section: str
    title: str
    text: str
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
    drawn = [_accuracy(methods)]
    if gains(methods):
        drawn.append(_gain(methods))
    drawn += [_matrix(label, runs) for label, runs in methods.items()]
    for label, runs in methods.items():
        if all("confusion" in run for run in runs):  # old results lack it
            drawn.append(_confusion(label, runs))
    for label, runs in methods.items():
        if runs[0].get("mist", {}).get("layers"):
            drawn.append(_selection(label, runs))
    return drawn


def _accuracy(methods: Methods) -> Drawing:
    """Accuracy on all classes seen after each experience; bands are one standard deviation."""
    figure, axes = _empty(2.3)
    hosts = [*dict.fromkeys(label.removesuffix("+mist") for label in methods)]
    ends = []
    for label, runs in methods.items():
        curves = np.array([_curve(run) for run in runs])
        classes, mean = runs[0]["classes_seen"], curves.mean(axis=0)
        colour = _COLOURS[hosts.index(label.removesuffix("+mist")) % len(_COLOURS)]
        line = "o-" if "+" in label else "o--"
        name = _plain(label)
        axes.plot(classes, mean, line, color=colour, label=name, markersize=2.5, linewidth=1.2)
        if len(curves) > 1:
            std = curves.std(axis=0, ddof=1)
            axes.fill_between(classes, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
        ends.append(f"{display_name(label)} ends at {mean_and_std(runs)['A_T']['mean']:.1f} %")
    axes.set(xlabel="classes seen", ylabel="top-1 accuracy (%)")
    axes.set_ylim(0, min(102, 1.05 * axes.get_ylim()[1]))
    _add_legend(figure)
    title = "Accuracy on all classes seen"
    return Drawing("Figures", title, "; ".join(ends), "accuracy", _laid_out(figure))


def _curve(run: Any) -> list[float]:
    """Accuracy over all test images of the classes seen, after each experience."""
    images = run["test_images"]
    return [float(np.average(row, weights=images[: len(row)])) for row in run["accuracy"]]


def _gain(methods: Methods) -> Drawing:
    """What MIST adds to each host: a point per seed, the mean, and its 95 % interval."""
    found = gains(methods)
    figure, axes = _empty(0.75 + 0.34 * len(found))
    axes.axvline(0, color="0.5", linewidth=1)
    for y, gain in enumerate(found):
        seed = "one seed" if y == 0 else None
        mean = "mean, 95 % interval" if y == 0 else None
        seeds = gain.differences
        axes.plot(seeds, [y + 0.22] * len(seeds), "o", color="0.5", markersize=3.5, label=seed)
        whisker = gain.half_width
        axes.errorbar(gain.mean, y - 0.1, xerr=whisker, fmt="D", ms=4.5, capsize=3, label=mean)
    axes.set_yticks(range(len(found)), [_plain(gain.label) for gain in found])
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="gain in $A_T$ (points)")
    _add_legend(figure)
    text = "; ".join(f"{display_name(g.label)}: {g.mean:+.1f} points ({g.interval})" for g in found)
    return Drawing("Figures", "Gain of MIST", text, "gain", _laid_out(figure))


def _matrix(label: str, runs: Runs) -> Drawing:
    """Accuracy on the classes of each experience after each experience, mean over seeds."""
    n = len(runs[0]["accuracy"])
    rows = [[row + [np.nan] * (n - len(row)) for row in run["accuracy"]] for run in runs]
    matrix = np.mean(rows, axis=0)
    text = f"After the last experience: {_percentages(matrix[-1])}"
    figure = _heat_map(matrix, "accuracy (%)", "classes of experience", "after experience")
    file = f"matrix-{_file_name(label)}"
    return Drawing("Accuracy by experience", display_name(label), text, file, figure)


def _confusion(label: str, runs: Runs) -> Drawing:
    """The share of each experience's images predicted as classes of each, mean over seeds."""
    counts = np.array([run["confusion"]["experiences"] for run in runs], dtype=np.float64)
    images = np.array([run["test_images"] for run in runs], dtype=np.float64)
    matrix = 100 * (counts / images[:, :, None]).mean(axis=0)
    text = f"Predicted as a class of their own experience: {_percentages(matrix.diagonal())}"
    figure = _heat_map(matrix, "images (%)", "predicted class of experience", "class of experience")
    section = "Confusion after the last experience"
    return Drawing(section, display_name(label), text, f"confusion-{_file_name(label)}", figure)


def _heat_map(matrix: Any, what: str, xlabel: str, ylabel: str) -> Figure:
    """A square of percentages by experience."""
    figure, axes = _empty(2.9)
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    ticks = range(0, len(matrix), -(-len(matrix) // 10))
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(visible=False)
    if len(matrix) <= 10:
        for t, i in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            ink = "black" if matrix[t, i] > 60 else "white"
            axes.text(i, t, f"{matrix[t, i]:.0f}", ha="center", va="center", color=ink)
    figure.colorbar(image, label=what, shrink=0.9)
    return _laid_out(figure)


def _selection(label: str, runs: Runs) -> Drawing:
    """What MIST may change, of the first seed."""
    mist = runs[0]["mist"]
    selected, total = (sum(row[i] for row in mist["layers"]) for i in (1, 2))
    text = f"{selected:,} of {total:,} entries, {100 * selected / total:.2f} %"
    if overlaps := mist.get("overlaps"):
        shared = _percentages([100 * overlap for overlap in overlaps])
        text += f"; shared with the selection before: {shared}"
    section, file = "Where MIST may change the backbone", f"selection-{_file_name(label)}"
    return Drawing(section, display_name(label), text, file, selection_figure(mist["layers"]))


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
    panels[-1].set_xlabel("entries that may change (%)")
    return _laid_out(figure)


def _empty(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _laid_out(figure: Figure) -> Figure:
    """The figure with a fixed layout, which every format would otherwise compute again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _add_legend(figure: Figure) -> None:
    """A legend below the axes, where it hides nothing; the figure grows by its height."""
    names = figure.axes[0].get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names)) <= 22 else 1
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(names) // columns))
    figure.legend(loc="outside lower center", frameon=False, ncols=columns, columnspacing=1)


def _plain(label: str) -> str:
    """A method's name, in which matplotlib finds no formula."""
    return display_name(label).replace("$", r"\$")


def _percentages(values: Any) -> str:
    return ", ".join(f"{value:.0f} %" for value in values)


def _file_name(label: str) -> str:
    return re.sub(r"[^\w+.-]", "_", label)
