"""Strategies that compute a classifier on the features of a pretrained backbone."""

from .ranpac import RanPAC as RanPAC
from .simplecil import SimpleCIL as SimpleCIL

__all__ = ["RanPAC", "SimpleCIL"]
