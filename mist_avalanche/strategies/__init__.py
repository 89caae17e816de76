"""Strategies that freeze a pretrained backbone and compute a classifier on its features."""

from .simplecil import SimpleCIL as SimpleCIL

__all__ = ["SimpleCIL"]
