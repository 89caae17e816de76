"""Runs: from settings to results, for many methods and seeds, with resuming and prediction."""

from .checkpoint import Checkpoint
from .config import RunConfig
from .launchers import Slurm
from .metrics import accuracy_rows, summarize
from .predict import Classifier, load_run
from .run import run
from .run_methods import run_methods

__all__ = [
    "Checkpoint",
    "Classifier",
    "RunConfig",
    "Slurm",
    "accuracy_rows",
    "load_run",
    "run",
    "run_methods",
    "summarize",
]
