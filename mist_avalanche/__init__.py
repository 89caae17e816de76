"""Mutual Information-guided Sparse Tuning (MIST) for every Avalanche strategy."""

from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .plugin import MISTPlugin as MISTPlugin

__all__ = ["MISTPlugin", "__version__"]


def __getattr__(name: str) -> Any:
    """MISTPlugin, imported when it is asked for: the command's help does not wait for torch."""
    if name == "MISTPlugin":
        from .plugin import MISTPlugin

        return MISTPlugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
