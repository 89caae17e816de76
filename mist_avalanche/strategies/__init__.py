"""Strategies with a pretrained backbone: classifiers that are computed, and parts that train."""

from .coda_prompt import CODAPrompt as CODAPrompt
from .dualprompt import DualPrompt as DualPrompt
from .l2p import L2P as L2P
from .ranpac import RanPAC as RanPAC
from .simplecil import SimpleCIL as SimpleCIL
from .slca import SLCA as SLCA

__all__ = ["L2P", "SLCA", "CODAPrompt", "DualPrompt", "RanPAC", "SimpleCIL"]
