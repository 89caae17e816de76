"""All pictures of a comparison, each with its content in words, for the report and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from .._support.disk import full_disk_named
from ..method.layers_figure import selection_figure
from ..strategies.names import display_name
from .figures import accuracy_figure, matrix_figure, tradeoff_figure
from .summary import Runs, mean_and_std

MATRICES, LAYERS = "Accuracy by experience", "Where MIST may move the backbone"


class Picture(NamedTuple):
    """A figure, the heading that it stands under ("" for none), its title, and it in words."""

    section: str
    title: str
    text: str
    figure: Figure


def pictures(methods: Mapping[str, Runs]) -> Iterator[Picture]:
    """Every picture of some methods, name to the results of its seeds, section by section."""
    means = {label: mean_and_std(runs) for label, runs in methods.items()}
    yield Picture(
        "",
        "Accuracy on all classes seen",
        "; ".join(
            f"{display_name(label)} ends at {m['A_T']['mean']:.1f} %" for label, m in means.items()
        ),
        accuracy_figure(methods),
    )
    yield Picture(
        "",
        "Plasticity against stability",
        "; ".join(
            f"{display_name(label)}: {m['A_new']['mean']:.1f} % of the newest classes, "
            f"{m['forgetting']['mean']:.1f} points forgotten"
            for label, m in means.items()
        ),
        tradeoff_figure(methods),
    )
    for label, runs in methods.items():
        last = _row(runs[0]["accuracy"][-1])
        yield Picture(
            MATRICES,
            f"{display_name(label)}: accuracy by experience",
            f"After the last experience: {last}.",
            matrix_figure(label, runs),
        )
    for label, runs in methods.items():
        if runs[0].get("mist", {}).get("layers"):
            yield Picture(
                LAYERS,
                f"{display_name(label)}: entries that may move",
                _overlap(runs),
                selection_figure(runs[0]["mist"]["layers"], display_name(label)),
            )


def write_board(methods: Mapping[str, Runs], folder: Path) -> None:
    """The pictures as images for TensorBoard, in an event file in ``folder``."""
    with full_disk_named(folder, "its pictures"), SummaryWriter(str(folder)) as writer:
        for picture in pictures(methods):
            section = picture.section or "Methods"
            writer.add_figure(f"{section}/{picture.title}", picture.figure)


def _row(values: list[float]) -> str:
    return ", ".join(f"{v:.0f} %" for v in values)


def _overlap(runs: Runs) -> str:
    share = f"{100 * runs[0]['mist']['selected_fraction']:.2f} % of the backbone"
    overlaps = [100 * v for v in runs[0]["mist"].get("overlaps") or []]
    return share + (f"; shared with the selection before: {_row(overlaps)}" if overlaps else "")
