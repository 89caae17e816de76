"""Strategies that compute a classifier on the features of a pretrained backbone."""

from typing import TYPE_CHECKING

from .._support.lazy import lazily

if TYPE_CHECKING:
    from .ranpac import RanPAC as RanPAC
    from .simplecil import SimpleCIL as SimpleCIL
else:
    __getattr__, __dir__ = lazily(
        __name__,
        RanPAC="ranpac",
        SimpleCIL="simplecil",
    )

__all__ = ["RanPAC", "SimpleCIL"]
