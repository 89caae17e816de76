"""The ablations of the paper's Table 2: what each part of MIST contributes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..method.ablations import ABLATIONS
from .config import RunConfig

_WHOLE = "mist"


def ablated(config: RunConfig) -> dict[str, RunConfig]:
    """A strategy without MIST, with it, and with each ablation of it, by label.

    Args:
        config: settings that all share; ``mist`` is set here.
    """
    plain = replace(config, mist=False)
    methods = {plain.label: plain}
    changes = {_WHOLE: {}, **{name: ablation.mist_args for name, ablation in ABLATIONS.items()}}
    for name, changed in changes.items():
        label = f"{plain.label}+{name}"
        mist_args = {**config.mist_args, **changed}
        methods[label] = replace(config, mist=True, mist_args=mist_args, name=label)
    return methods


def sentences(labels: Iterable[str]) -> dict[str, str]:
    """What is different in each method, by label."""
    found = {}
    for label in labels:
        _, plus, name = label.partition("+")
        if not plus:
            found[label] = "The strategy without MIST."
        elif name == _WHOLE:
            found[label] = "The full method, with the settings below."
        else:
            found[label] = ABLATIONS[name].changes
    return found
