"""Strategies by the names that the command and results have for them; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# To the names that this room has for them.
OWN_STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "simplecil": "SimpleCIL",
        "ranpac": "RanPAC",
        "l2p": "L2P",
        "dualprompt": "DualPrompt",
        "codaprompt": "CODAPrompt",
        "aper": "APER",
        "slca": "SLCA",
        "ease": "EASE",
    }
)
# Those whose classifier is computed from stored features, which can follow a drift.
COMPUTED_STRATEGIES = ("simplecil", "ranpac")
# Those whose backbone has to be timm's VisionTransformer.
VIT_STRATEGIES = ("l2p", "dualprompt", "codaprompt", "aper", "ease")
# Those of which torchrun's processes share the work.
SHARED_STRATEGIES = (*COMPUTED_STRATEGIES, "l2p", "dualprompt", "codaprompt")
# Avalanche's, with the settings of baselines.py.
BASELINES = (
    "naive",
    "replay",
    "ewc",
    "lwf",
    "er_ace",
    "der",
    "scr",
    "streaming_lda",
    "cumulative",
    "joint",
)
STRATEGIES = (*OWN_STRATEGIES, *BASELINES)
# What `compare` compares unless told otherwise: all but Cumulative, a second upper bound.
COMPARED = (
    *(name for strategy in COMPUTED_STRATEGIES for name in (strategy, f"{strategy}+mist")),
    *(name for name in BASELINES if name != "cumulative"),
)
