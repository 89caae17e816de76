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
# Those that see the images of all experiences at once.
UPPER_BOUNDS = ("cumulative", "joint")
# What `compare` compares unless told otherwise: all but Cumulative, a second upper bound.
COMPARED = (
    *(name for strategy in COMPUTED_STRATEGIES for name in (strategy, f"{strategy}+mist")),
    *(name for name in BASELINES if name != "cumulative"),
)
_DISPLAYED: Mapping[str, str] = MappingProxyType(
    {
        **OWN_STRATEGIES,
        "codaprompt": "CODA-Prompt",
        "naive": "Naive",
        "replay": "Replay",
        "ewc": "EWC",
        "lwf": "LwF",
        "er_ace": "ER-ACE",
        "der": "DER",
        "scr": "SCR",
        "streaming_lda": "Streaming LDA",
        "cumulative": "Cumulative",
        "joint": "Joint",
    }
)
_ADDITIONS = {"mist": "MIST", "drift": "drift compensation"}
# MIST with one part replaced, by the name that `ablate` gives it.
ABLATED: Mapping[str, str] = MappingProxyType(
    {
        "random": "random scores",
        "magnitude": "magnitude scores",
        "gradient": "gradient scores",
        "global": "global ranking",
        "cross_entropy": "cross-entropy",
        "no_drop": "no dropping",
        "dense": "dense",
    }
)


def display_name(label: str) -> str:
    """A method's name as people read it; what is not known stays as it is.

    >>> display_name("simplecil+mist")
    'SimpleCIL + MIST'
    >>> display_name("ranpac+no_drop")
    'RanPAC + MIST (no dropping)'
    >>> display_name("ranpac+mist-order-1993")
    'RanPAC + MIST, order 1993'
    """
    method, order, seed = label.partition("-order-")
    strategy, *additions = method.split("+")
    if not {*additions} <= {*_ADDITIONS, *ABLATED}:
        return label
    shown = [_DISPLAYED.get(strategy, strategy)]
    for part in additions:
        shown.append(_ADDITIONS.get(part) or f"MIST ({ABLATED[part]})")
    return " + ".join(shown) + (f", order {seed}" if order else "")


def host_of(label: str) -> str | None:
    """The method that a method with MIST, whole or ablated, adds it to; None without MIST."""
    strategy, *additions = label.split("+")
    with_mist = additions and (additions[0] == "mist" or additions[0] in ABLATED)
    return strategy if with_mist else None
