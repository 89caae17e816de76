"""Mutual Information-guided Sparse Tuning (MIST) for every Avalanche strategy."""

from .plugin import MISTPlugin as MISTPlugin

__all__ = ["MISTPlugin"]
__version__ = "0.1.0"
