"""What every figure begins and ends with."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

COLUMN = 3.3  # inches: the width of a paper's column
POINTS = 8.0  # of every text


def empty_figure(width: float, height: float) -> Figure:
    """A figure in inches that needs no screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def readable(figure: Figure) -> Figure:
    """The figure, with all text as large as a paper's column needs it, laid out for good."""
    for axes in figure.axes:
        axes.tick_params(labelsize=POINTS)  # of ticks that are made when it is drawn
    for text in figure.findobj(Text):
        text.set_fontsize(POINTS)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # which every format would do again
    return figure


def plain_label(label: str) -> str:
    """A name that matplotlib shows as it is: no formula between dollar signs."""
    return label.replace("$", r"\$")
