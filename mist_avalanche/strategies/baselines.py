"""Avalanche's own strategies as the command builds them: one backbone, one growing linear head.

The settings are those of this file, for all benchmarks: Avalanche's defaults where it has them,
SGD with momentum as in its examples, and small steps because the backbone is pretrained.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from avalanche.models import IncrementalClassifier
from avalanche.training.supervised import EWC, Cumulative, LwF, Naive, Replay
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from ..heads import BackboneWithHead
from .ranpac import RanPAC
from .simplecil import SimpleCIL

LR, MOMENTUM, EPOCHS, BATCH_SIZE = 0.01, 0.9, 10, 32

_GRADIENT_STRATEGIES: Mapping[str, tuple[type[SupervisedTemplate], dict[str, Any]]] = (
    MappingProxyType(
        {
            "naive": (Naive, {}),
            "replay": (Replay, {"mem_size": 200}),
            "ewc": (EWC, {"ewc_lambda": 0.4}),
            "lwf": (LwF, {"alpha": 1.0, "temperature": 2.0}),
            "cumulative": (Cumulative, {}),
        }
    )
)
COMPUTED_STRATEGIES: Mapping[str, Callable[..., SupervisedTemplate]] = MappingProxyType(
    {"simplecil": SimpleCIL, "ranpac": RanPAC}
)
STRATEGIES = (*COMPUTED_STRATEGIES, *_GRADIENT_STRATEGIES)


_ELSEWHERE = {
    "drift_compensation": "--drift-compensation",
    "device": "--device",
    "plugins": "--mist",
    "model": "--backbone",
}


def arguments_of(name: str) -> set[str]:
    """What a strategy takes besides what the command gives it."""
    strategy = COMPUTED_STRATEGIES.get(name) or _GRADIENT_STRATEGIES[name][0]
    taken = {*_ELSEWHERE, "self", "evaluator", "optimizer", "criterion", "kwargs", "base_kwargs"}
    return {*inspect.signature(strategy).parameters} - taken


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
            raise ValueError(
                f"{name!r} has no argument {setting!r}. Use one of {', '.join(sorted(possible))}."
            )
    if drift and name not in COMPUTED_STRATEGIES:
        raise ValueError(
            f"{name!r} has no drift to compensate; only {' and '.join(COMPUTED_STRATEGIES)} store "
            "features."
        )


def build_strategy(
    name: str,
    backbone: nn.Module,
    n_features: int,
    *,
    device: torch.device,
    plugins: Sequence[Any],
    evaluator: Any,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> SupervisedTemplate:
    """A strategy that :func:`check_strategy` passes, with some of its arguments changed."""
    common = {"device": device, "plugins": list(plugins), "evaluator": evaluator, **settings}
    if name in COMPUTED_STRATEGIES:
        return COMPUTED_STRATEGIES[name](model=backbone, **common)
    strategy, defaults = _GRADIENT_STRATEGIES[name]
    model = BackboneWithHead(backbone, IncrementalClassifier(n_features))
    return strategy(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM),
        criterion=nn.CrossEntropyLoss(),
        **{
            "train_mb_size": BATCH_SIZE,
            "train_epochs": EPOCHS,
            "eval_mb_size": 64,
            **defaults,
            **common,
        },
    )
