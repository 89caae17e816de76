"""Strategies with a pretrained backbone: computed classifiers, prompts, adapters, slow training."""

from typing import TYPE_CHECKING

from .._support.lazy import lazily

if TYPE_CHECKING:
    from .aper import APER as APER
    from .coda_prompt import CODAPrompt as CODAPrompt
    from .dualprompt import DualPrompt as DualPrompt
    from .ease import EASE as EASE
    from .l2p import L2P as L2P
    from .ranpac import RanPAC as RanPAC
    from .simplecil import SimpleCIL as SimpleCIL
    from .slca import SLCA as SLCA
else:
    __getattr__, __dir__ = lazily(
        __name__,
        APER="aper",
        CODAPrompt="coda_prompt",
        DualPrompt="dualprompt",
        EASE="ease",
        L2P="l2p",
        RanPAC="ranpac",
        SimpleCIL="simplecil",
        SLCA="slca",
    )

__all__ = ["APER", "EASE", "L2P", "SLCA", "CODAPrompt", "DualPrompt", "RanPAC", "SimpleCIL"]
