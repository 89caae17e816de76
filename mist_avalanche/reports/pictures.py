"""All pictures of a comparison, each with its content in words, for the report and TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from .._support.disk import full_disk_named
from ..method.layers_figure import selection_figure
from ..strategies.names import display_name
from .figures import (
    accuracy_figure,
    confusion_figure,
    gain_figure,
    loss_figure,
    matrix_figure,
    mean_confusion,
    tradeoff_figure,
)
from .gains import gains
from .report import save_figure
from .summary import Runs, mean_and_std
from .words import in_points

MATRICES, LAYERS = "Accuracy by experience", "Where MIST may move the backbone"
CONFUSIONS = "What images are taken for, after the last experience"
INK = "#101112"  # of lines and text around the axes; a page puts its own colour there
_LOOK: dict[Any, str] = {
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    "axes.facecolor": "none",  # the figure's shows, which a page leaves away
}


class Picture(NamedTuple):
    """A figure, its heading ("" for none), its title, it in words, and its file's name."""

    section: str
    title: str
    text: str
    figure: Figure
    file: str


def pictures(methods: Mapping[str, Runs]) -> list[Picture]:
    """Every picture of some methods, name to the results of its seeds, section by section."""
    with mpl.rc_context(_LOOK):
        return [*_pictures(methods)]


def _pictures(methods: Mapping[str, Runs]) -> Iterator[Picture]:
    means = {display_name(label): mean_and_std(runs) for label, runs in methods.items()}
    yield Picture(
        "",
        "Accuracy on all classes seen",
        "; ".join(f"{name} ends at {m['A_T']['mean']:.1f} %" for name, m in means.items()),
        accuracy_figure(methods),
        "accuracy",
    )
    if found := gains(methods):
        yield Picture(
            "",
            "Gain by MIST",
            "; ".join(f"{display_name(g.label)}: {in_points(g)}" for g in found),
            gain_figure(found),
            "gain",
        )
    yield Picture(
        "",
        "Plasticity against stability",
        "; ".join(
            f"{name}: {m['A_new']['mean']:.1f} % of the newest classes, "
            f"{m['forgetting']['mean']:.1f} points forgotten"
            for name, m in means.items()
        ),
        tradeoff_figure(methods),
        "tradeoff",
    )
    if tuned := {k: runs for k, runs in methods.items() if runs[0].get("mist", {}).get("losses")}:
        yield Picture(
            "",
            "Loss of MIST's tuning",
            "; ".join(_losses(label, runs) for label, runs in tuned.items()),
            loss_figure(tuned),
            "tuning-loss",
        )
    for label, runs in methods.items():
        last = _row(runs[0]["accuracy"][-1])
        yield Picture(
            MATRICES,
            f"{display_name(label)}: accuracy by experience",
            f"After the last experience: {last}.",
            matrix_figure(label, runs),
            f"matrix-{file_name(label)}",
        )
    for label, runs in methods.items():
        if all("confusion" in r for r in runs):  # earlier versions did not keep it
            right = [row[i] for i, row in enumerate(mean_confusion(runs))]
            yield Picture(
                CONFUSIONS,
                f"{display_name(label)}: confusion by experience",
                f"Taken for a class of their own experience: {_row(right)}.",
                confusion_figure(label, runs),
                f"confusion-{file_name(label)}",
            )
    for label, runs in methods.items():
        if runs[0].get("mist", {}).get("layers"):
            yield Picture(
                LAYERS,
                f"{display_name(label)}: entries that may move",
                _overlap(runs),
                selection_figure(runs[0]["mist"]["layers"], display_name(label)),
                f"selection-{file_name(label)}",
            )


def write_figures(
    methods: Mapping[str, Runs], folder: Path, *, board: bool = False
) -> list[Picture]:
    """Every picture as PNG, SVG and PDF, in ``figures`` in a folder.

    Args:
        methods: name to the results of its seeds.
        folder: where ``figures`` comes to lie.
        board: also as images for TensorBoard, in ``tensorboard`` there.

    Returns:
        The pictures, for :func:`~mist_avalanche.reports.write_page`.
    """
    drawn = pictures(methods)
    for picture in drawn:
        save_figure(picture.figure, folder, picture.file)
    if board:
        _add_to_board(drawn, folder / "tensorboard")
    return drawn


def file_name(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w+.-]", "_", label)


def write_board(methods: Mapping[str, Runs], folder: Path) -> None:
    """The pictures as images for TensorBoard, in an event file in ``folder``."""
    _add_to_board(pictures(methods), folder)


def _add_to_board(drawn: Sequence[Picture], folder: Path) -> None:
    with full_disk_named(folder, "its pictures"), SummaryWriter(str(folder)) as writer:
        for picture in drawn:
            section = picture.section or "Methods"
            writer.add_figure(f"{section}/{picture.title}", picture.figure)


def _losses(label: str, runs: Runs) -> str:
    curves = runs[0]["mist"]["losses"]
    return f"{display_name(label)}: {curves[0][0]:.2f} to {curves[-1][-1]:.2f}"


def _row(values: list[float]) -> str:
    return ", ".join(f"{v:.0f} %" for v in values)


def _overlap(runs: Runs) -> str:
    share = f"{100 * runs[0]['mist']['selected_fraction']:.2f} % of the backbone"
    overlaps = [100 * v for v in runs[0]["mist"].get("overlaps") or []]
    return share + (f"; shared with the selection before: {_row(overlaps)}" if overlaps else "")
