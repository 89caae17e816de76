"""Runs: settings, one run, several of them, and what a run leaves to go on from.

:func:`run` goes from a :class:`RunConfig` to a folder of results; :class:`Checkpoint` lets any
training loop go on where it was stopped; :func:`load_run` gives a finished run's classifier.
"""

from .checkpoint import Checkpoint
from .config import RunConfig
from .experiments import run_methods, run_seeds
from .metrics import accuracy_rows, summarize
from .prediction import Classifier, load_run
from .runner import run

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
