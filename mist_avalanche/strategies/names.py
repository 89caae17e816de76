"""Strategies by the names that the command and results have for them; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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


@dataclass(frozen=True)
class Ablation:
    """MIST with one part replaced.

    Args:
        shown: in tables.
        changes: in words.
        mist_args: arguments of MISTPlugin that differ from the settings asked for.
    """

    shown: str
    changes: str
    mist_args: Mapping[str, Any]


# The paper's Table 2, by what follows the strategy's name in tables and folders.
ABLATIONS: Mapping[str, Ablation] = MappingProxyType(
    {
        "random": Ablation(
            "random scores",
            "Entries are selected at random, as many as before.",
            {"select_by": "random"},
        ),
        "magnitude": Ablation(
            "magnitude scores",
            "The largest weights are selected, whatever the objective says.",
            {"select_by": "magnitude"},
        ),
        "gradient": Ablation(
            "gradient scores",
            "Scores are mean gradients of the objective, not its Fisher information.",
            {"select_by": "gradient"},
        ),
        "global": Ablation(
            "global ranking",
            "Scores are ranked over the whole backbone, not within each tensor.",
            {"ranking": "global"},
        ),
        "cross_entropy": Ablation(
            "cross-entropy",
            "Scores and tuning follow the cross-entropy of a classifier, not the "
            "mutual-information objective.",
            {"objective": "cross_entropy"},
        ),
        "no_drop": Ablation(
            "no dropping",
            "Every selected entry moves in every step; none rests.",
            {"drop_rate": 0.0},
        ),
        "dense": Ablation(
            "dense",
            "Every entry of the backbone may move, and none rests.",
            {"select_rate": 1.0, "drop_rate": 0.0},
        ),
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
    if not {*additions} <= {*_ADDITIONS, *ABLATIONS}:
        return label
    shown = [_DISPLAYED.get(strategy, strategy)]
    for part in additions:
        shown.append(_ADDITIONS.get(part) or f"MIST ({ABLATIONS[part].shown})")
    return " + ".join(shown) + (f", order {seed}" if order else "")


def host_of(label: str) -> str | None:
    """The method that a method with MIST, whole or ablated, adds it to; None without MIST."""
    strategy, *additions = label.split("+")
    with_mist = additions and (additions[0] == "mist" or additions[0] in ABLATIONS)
    return strategy if with_mist else None
