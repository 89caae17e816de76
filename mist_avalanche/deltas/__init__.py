"""Sparse deltas: what tuning changed in a backbone, as a file of a few per cent of its size."""

from .delta import apply_delta, revert_delta, save_delta
from .delta_set import DeltaSet
from .file import Delta, read_delta

__all__ = ["Delta", "DeltaSet", "apply_delta", "read_delta", "revert_delta", "save_delta"]
