"""Runs: settings, one run, several of them, and what a run leaves to go on from.

:func:`run` goes from a :class:`RunConfig` to a folder of results; :class:`Checkpoint` lets any
training loop go on where it was stopped; :func:`load_run` gives a finished run's classifier.
"""

from typing import TYPE_CHECKING

from .._support.lazy import lazily

if TYPE_CHECKING:
    from .checkpoint import Checkpoint as Checkpoint
    from .config import RunConfig as RunConfig
    from .experiments import run_methods as run_methods
    from .experiments import run_seeds as run_seeds
    from .metrics import accuracy_rows as accuracy_rows
    from .metrics import summarize as summarize
    from .prediction import Classifier as Classifier
    from .prediction import load_run as load_run
    from .runner import run as run
else:
    __getattr__, __dir__ = lazily(
        __name__,
        Checkpoint="checkpoint",
        RunConfig="config",
        run_methods="experiments",
        run_seeds="experiments",
        accuracy_rows="metrics",
        summarize="metrics",
        Classifier="prediction",
        load_run="prediction",
        run="runner",
    )

__all__ = [
    "Checkpoint",
    "Classifier",
    "RunConfig",
    "accuracy_rows",
    "load_run",
    "run",
    "run_methods",
    "run_seeds",
    "summarize",
]
