"""The ablations of the paper's Table 2: what each part of MIST is worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..method.options import merged_options
from ..strategies.names import ABLATIONS
from .config import RunConfig

_WHOLE = "mist"


def ablated(config: RunConfig) -> dict[str, RunConfig]:
    """The strategy without MIST, with it, and with every ablation, by name.

    Args:
        config: of the run with MIST whole; ``mist`` is set here.
    """
    methods = {config.strategy: replace(config, mist=False)}
    changes = {_WHOLE: {}, **{name: ablation.mist_args for name, ablation in ABLATIONS.items()}}
    for name, of_mist in changes.items():
        mist_args = merged_options(config.mist_args, of_mist)
        label = f"{config.strategy}+{name}"
        methods[label] = replace(config, mist=True, mist_args=mist_args, name=label)
    return methods


def sentences(labels: Iterable[str]) -> dict[str, str]:
    """What each method changes, by its label."""
    found = {}
    for label in labels:
        _, plus, name = label.partition("+")
        if not plus:
            found[label] = "The strategy without MIST."
        elif name == _WHOLE:
            found[label] = "MIST whole, with the settings below."
        else:
            found[label] = ABLATIONS[name].changes
    return found
