"""The ablations of the paper's Table 2: what each part of MIST is worth."""

from __future__ import annotations

from collections.abc import Mapping
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
