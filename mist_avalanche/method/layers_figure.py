"""Where MIST may move a backbone, as a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from .._support.figures import COLUMN, empty_figure, plain_label, readable

Rows = Sequence[Sequence[Any]]  # parameter, entries selected, entries, always


def selection_figure(rows: Rows, title: str = "") -> Figure:
    """Share and number of the entries that may move, by block and by kind of tensor."""
    firsts = {name.partition(".")[0] for name, *_ in rows}
    if len(firsts) == 1 and firsts.pop().isdigit():  # the backbone's place in a Sequential
        rows = [(name.partition(".")[2], *row) for name, *row in rows]
    groups = [grouped(rows, kind) for kind in (_block, _kind)]
    heights = [len(group) + 1 for group in groups]
    figure = empty_figure(COLUMN, 0.7 + 0.17 * sum(heights))
    panels = figure.subplots(2, 1, height_ratios=heights)
    for axes, group in zip(panels, groups, strict=True):
        shares = [100 * chosen / size for chosen, size in group.values()]
        bars = axes.barh(range(len(shares)), shares, color="C0")
        axes.bar_label(bars, [f"{chosen:,}" for chosen, _ in group.values()], padding=2)
        axes.set_yticks(range(len(shares)), list(group))
        axes.set_ylim(len(shares) - 0.4, -0.6)
        top = max(shares)
        axes.set_xlim(0, 1.3 * top or 1)  # with room for the numbers
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= max(top, 1)])
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel("entries that may move (%)")
    if title:
        figure.suptitle(plain_label(title))
    return readable(figure)


def grouped(rows: Rows, group_of: Callable[[str, bool], str]) -> dict[str, tuple[int, int]]:
    """Entries selected and entries of every group, in the order of the backbone."""
    found: dict[str, tuple[int, int]] = {}
    for name, chosen, size, always in rows:
        group = group_of(name, always)
        before = found.get(group, (0, 0))
        found[group] = (before[0] + chosen, before[1] + size)
    return found


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
    if "patch_embed" in name:
        return "patch embedding"
    for kind in ("qkv", "proj", "fc1", "fc2", "conv", "embed"):
        if kind in name.rsplit(".", 1)[0].split(".")[-1]:
            return kind
    return "other weights"
