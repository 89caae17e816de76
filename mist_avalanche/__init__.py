"""Mutual Information-guided Sparse Tuning (MIST) for every Avalanche strategy."""

from ._version import __version__ as __version__
from .plugin import MISTPlugin as MISTPlugin

__all__ = ["MISTPlugin", "__version__"]
