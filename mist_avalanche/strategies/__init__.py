"""Strategies that freeze a pretrained backbone and compute a classifier on its features."""

from .ranpac import RanPAC as RanPAC
from .simplecil import SimpleCIL as SimpleCIL

__all__ = ["RanPAC", "SimpleCIL"]
