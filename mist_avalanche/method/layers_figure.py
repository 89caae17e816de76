"""Where MIST may move a backbone, as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from .._support.figures import empty_figure, plain_label

Rows = Sequence[Sequence[Any]]  # parameter, entries selected, entries, always


def selection_figure(rows: Rows, title: str = "") -> Figure:
    """Share of the entries that may move, by block of the backbone and by kind of tensor."""
    figure = empty_figure(7, 3.4)
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
        figure.suptitle(plain_label(title))
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
