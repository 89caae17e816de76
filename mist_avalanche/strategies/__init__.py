"""Strategies for pretrained backbones, and Avalanche's own strategies as baselines."""

from . import baselines as baselines
from .aper import APER as APER
from .coda_prompt import CODAPrompt as CODAPrompt
from .cofima import CoFiMA as CoFiMA
from .dualprompt import DualPrompt as DualPrompt
from .ease import EASE as EASE
from .feature_based import FeatureStrategy as FeatureStrategy
from .fecam import FeCAM as FeCAM
from .gradient_based import GradientStrategy as GradientStrategy
from .l2p import L2P as L2P
from .mos import MOS as MOS
from .ranpac import RanPAC as RanPAC
from .registry import register as register
from .simplecil import SimpleCIL as SimpleCIL
from .slca import SLCA as SLCA
from .ssiat import SSIAT as SSIAT

__all__ = [
    "APER",
    "EASE",
    "L2P",
    "MOS",
    "SLCA",
    "SSIAT",
    "CODAPrompt",
    "CoFiMA",
    "DualPrompt",
    "FeCAM",
    "FeatureStrategy",
    "GradientStrategy",
    "RanPAC",
    "SimpleCIL",
    "register",
]
