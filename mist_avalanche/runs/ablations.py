"""The ablations of the paper's Table 2: what each part of MIST is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..method.options import merged_options
from .config import RunConfig

# What follows the strategy's name in tables and folders, and the arguments of MISTPlugin that
# differ from the settings asked for.
ABLATIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mist": {},
        "random": {"select_by": "random"},
        "magnitude": {"select_by": "magnitude"},
        "gradient": {"select_by": "gradient"},
        "global": {"ranking": "global"},
        "cross_entropy": {"objective": "cross_entropy"},
        "no_drop": {"drop_rate": 0.0},
        "dense": {"select_rate": 1.0, "drop_rate": 0.0},
    }
)
# What each changes, in words.
SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "mist": "MIST whole, with the settings below.",
        "random": "Entries are selected at random, as many as before.",
        "magnitude": "The largest weights are selected, whatever the objective says.",
        "gradient": "Scores are mean gradients of the objective, not its Fisher information.",
        "global": "Scores are ranked over the whole backbone, not within each tensor.",
        "cross_entropy": "Scores and tuning follow the cross-entropy of a classifier, not the "
        "mutual-information objective.",
        "no_drop": "Every selected entry moves in every step; none rests.",
        "dense": "Every entry of the backbone may move, and none rests.",
    }
)


def ablated(config: RunConfig) -> dict[str, RunConfig]:
    """The strategy without MIST, with it, and with every ablation, by name.

    Args:
        config: of the run with MIST whole; ``mist`` is set here.
    """
    methods = {config.strategy: replace(config, mist=False)}
    for name, changes in ABLATIONS.items():
        mist_args = merged_options(config.mist_args, changes)
        label = f"{config.strategy}+{name}"
        methods[label] = replace(config, mist=True, mist_args=mist_args, name=label)
    return methods


def sentences(labels: Iterable[str]) -> dict[str, str]:
    """What each method changes, by its label; the strategy alone is without MIST."""
    return {
        label: SENTENCES[name] if plus else "The strategy without MIST."
        for label in labels
        for _, plus, name in [label.partition("+")]
    }
