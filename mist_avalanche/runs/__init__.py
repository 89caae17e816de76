"""Runs: from settings to results, over methods and seeds, resumed, and used to predict."""

from .checkpoint import Checkpoint
from .config import RunConfig
from .many import run_methods
from .metrics import accuracy_rows, summarize
from .one import run
from .predict import Classifier, load_run

__all__ = [
    "Checkpoint",
    "Classifier",
    "RunConfig",
    "accuracy_rows",
    "load_run",
    "run",
    "run_methods",
    "summarize",
]
