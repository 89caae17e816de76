"""Strategies with a pretrained backbone: computed classifiers, prompts and adapters."""

from typing import TYPE_CHECKING

from .._support.lazy import lazily

if TYPE_CHECKING:
    from .aper import APER as APER
    from .coda_prompt import CODAPrompt as CODAPrompt
    from .dualprompt import DualPrompt as DualPrompt
    from .l2p import L2P as L2P
    from .ranpac import RanPAC as RanPAC
    from .simplecil import SimpleCIL as SimpleCIL
else:
    __getattr__, __dir__ = lazily(
        __name__,
        APER="aper",
        CODAPrompt="coda_prompt",
        DualPrompt="dualprompt",
        L2P="l2p",
        RanPAC="ranpac",
        SimpleCIL="simplecil",
    )

__all__ = ["APER", "L2P", "CODAPrompt", "DualPrompt", "RanPAC", "SimpleCIL"]
