"""Strategies by the names that the command and results have for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from .._support.checks import nearest_first
from . import names
from ._session import PUBLISHED
from .baselines import BASELINES, TRAINED_BASELINES, build_baseline
from .names import COMPUTED_STRATEGIES, STRATEGIES

OWN_STRATEGIES: Mapping[str, Callable[..., SupervisedTemplate]] = MappingProxyType(
    {name: getattr(import_module(__package__), of) for name, of in names.OWN_STRATEGIES.items()}
)


_ELSEWHERE = {
    "drift_compensation": "--drift-compensation",
    "device": "--device",
    "precision": "--precision",
    "compile": "--compile",
    "plugins": "--mist",
    "model": "--backbone",
}


def arguments_of(name: str) -> set[str]:
    """What a strategy takes besides what the command gives it."""
    strategy = OWN_STRATEGIES.get(name) or BASELINES[name].strategy
    taken = {*_ELSEWHERE, "self", "evaluator", "optimizer", "criterion", "kwargs", "base_kwargs"}
    taken |= {"slda_model", "input_size", "num_classes", "augmentations"}
    rate = {"lr"} if name in TRAINED_BASELINES else set()
    return {*inspect.signature(strategy).parameters} - taken | rate


def check_strategy(name: str, settings: Collection[str] = (), *, drift: bool = False) -> None:
    """A strategy by its name, with some arguments set and drift compensation or not.

    Raises:
        ValueError: there is no such strategy, not these arguments, or no drift to follow.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Unknown strategy {name!r}. Use one of {', '.join(STRATEGIES)}.")
    for setting in settings:
        if setting in _ELSEWHERE:
            raise ValueError(f"{setting!r} is not an argument here. Use {_ELSEWHERE[setting]}.")
        if setting not in (possible := arguments_of(name)):
            near = nearest_first(setting, possible)
            raise ValueError(f"{name!r} has no argument {setting!r}. It has {near}.")
    if drift and name not in COMPUTED_STRATEGIES:
        raise ValueError(
            f"{name!r} has no drift to compensate; only {' and '.join(COMPUTED_STRATEGIES)} store "
            "features."
        )


def takes(name: str, argument: str) -> bool:
    """Whether one of our strategies has an argument."""
    strategy = OWN_STRATEGIES.get(name)
    return strategy is not None and argument in inspect.signature(strategy).parameters


def first_session_epochs(adapter: str) -> int:
    """Passes over the first experience, as published, of what APER and RanPAC adapt."""
    return int(PUBLISHED[adapter]["train_epochs"])


def mist_arguments(name: str) -> Mapping[str, Any]:
    """Arguments of MISTPlugin that a strategy's model needs."""
    return BASELINES[name].mist if name in BASELINES else {}


def build_strategy(
    name: str,
    backbone: nn.Module,
    n_features: int,
    n_classes: int,
    *,
    device: torch.device,
    plugins: Sequence[Any],
    evaluator: Any,
    image_size: int,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> SupervisedTemplate:
    """A strategy that :func:`check_strategy` passes, with some of its arguments changed."""
    common = {"device": device, "plugins": list(plugins), "evaluator": evaluator, **settings}
    if name in OWN_STRATEGIES:
        return OWN_STRATEGIES[name](model=backbone, **common)
    return build_baseline(name, backbone, n_features, n_classes, image_size=image_size, **common)
