"""Mutual Information-guided Sparse Tuning (MIST) for every Avalanche strategy."""

from typing import TYPE_CHECKING

from ._support.lazy import lazily
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .plugin import MISTPlugin as MISTPlugin
else:
    __getattr__, __dir__ = lazily(
        __name__,
        MISTPlugin="plugin",
    )

__all__ = ["MISTPlugin", "__version__"]
