"""Avalanche's own strategies as the command builds them: one backbone, one growing linear head.

The settings are those of this file, for all benchmarks: Avalanche's defaults where it has them,
SGD with momentum as in its examples, and small steps because the backbone is pretrained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """A strategy by its name on the command line, with some of its arguments changed.

    Raises:
        ValueError: the name is not one of :data:`STRATEGIES`.
    """
    common = {"device": device, "plugins": list(plugins), "evaluator": evaluator, **settings}
    if name in COMPUTED_STRATEGIES:
        return COMPUTED_STRATEGIES[name](model=backbone, **common)
    if name not in _GRADIENT_STRATEGIES:
        raise ValueError(f"Unknown strategy {name!r}. Use one of {', '.join(STRATEGIES)}.")
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
