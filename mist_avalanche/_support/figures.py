"""What every figure begins with."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def empty_figure(width: float, height: float) -> Figure:
    """A figure in inches that needs no screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_label(label: str) -> str:
    """A name that matplotlib shows as it is: no formula between dollar signs."""
    return label.replace("$", r"\$")
