"""Strategies with a pretrained backbone: computed classifiers, prompts and adapters."""

from .aper import APER as APER
from .coda_prompt import CODAPrompt as CODAPrompt
from .dualprompt import DualPrompt as DualPrompt
from .l2p import L2P as L2P
from .ranpac import RanPAC as RanPAC
from .simplecil import SimpleCIL as SimpleCIL

__all__ = ["APER", "L2P", "CODAPrompt", "DualPrompt", "RanPAC", "SimpleCIL"]
