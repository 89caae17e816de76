"""All that a strategy has between two experiences, as tensors and plain data.

State is what has ``state_dict`` and ``load_state_dict``: the model, the optimizer, and those of the
plugins, the metrics and the strategy itself that have this pair. What keeps state without it is
named by :func:`unsaved`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from avalanche.evaluation.metric_definitions import GenericPluginMetric
from avalanche.evaluation.metrics import StreamConfusionMatrix
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor, nn

from ..models.features import in_mode

_OWN = (EvaluationPlugin, PeriodicEval, Clock)  # Avalanche's, whose state is known here
_NUMBERS = (int, float, Tensor)


def _has_pair(value: Any) -> bool:
    return all(callable(getattr(value, n, None)) for n in ("state_dict", "load_state_dict"))


@cache
def _of_every_strategy() -> frozenset[str]:
    """Names of the attributes that Avalanche's template has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = SupervisedTemplate(model=nn.Module(), optimizer=None, evaluator=None)
    return frozenset(vars(made))


def unsaved(strategy: Any) -> list[str]:
    """What may keep state between experiences and has no ``state_dict``: names of classes.

    A plugin without attributes keeps none, nor does a strategy without attributes beyond those of
    Avalanche's template, nor a metric that is reset before each experience or stream.
    """
    plugins = [p for p in strategy.plugins if type(p) not in _OWN]
    metrics = [
        metric
        for metric in strategy.evaluator.metrics
        if type(metric) is not StreamConfusionMatrix
        and not (isinstance(metric, GenericPluginMetric) and metric._reset_at != "never")
    ]
    found = [part for part in (*plugins, *metrics) if vars(part) and not _has_pair(part)]
    if not _has_pair(strategy) and not vars(strategy).keys() <= _of_every_strategy():
        found.insert(0, strategy)
    optimizer = _optimizer(strategy)
    if optimizer is not None and not (_has_pair(optimizer) and _names(strategy) is not None):
        found.append(optimizer)
    return [type(part).__name__ for part in found]


def state_of(strategy: Any) -> dict[str, Any]:
    """The state of a strategy between two experiences; tensors are not copied."""
    evaluator = strategy.evaluator
    return {
        "classes": _classes(strategy),
        "model": model_state(strategy),
        "trained": {
            name: p.requires_grad
            for name, p in strategy.model.named_parameters()
            if not name.startswith(_apart(strategy))
        },
        "strategy": strategy.state_dict() if _has_pair(strategy) else None,
        "parts": [part.state_dict() if _has_pair(part) else None for part in _parts(strategy)],
        "optimizer": None if _optimizer(strategy) is None else _optimizer_state(strategy),
        "clock": dict(vars(strategy.clock)),
        "last": {k: v for k, v in evaluator.last_metric_results.items() if type(v) in _NUMBERS},
        "all": {
            name: [*curve]
            for name, curve in evaluator.all_metric_results.items()
            if all(type(v) in _NUMBERS for values in curve for v in values)
        },
    }


def restore(state: Mapping[str, Any], strategy: Any, benchmark: Any, done: int) -> None:
    """Put a strategy, built as the saved one was, to the state of :func:`state_of`.

    Raises:
        ValueError: it has other parts, or in another order.
        Exception: of many kinds, where the contents do not fit.
    """
    if state["classes"] != _classes(strategy):
        there, here = (
            ", ".join(map(str, names)) for names in (state["classes"], _classes(strategy))
        )
        raise ValueError(f"it is of {there[:200]}, here are {here[:200]}")
    strategy.model.to(strategy.device)
    _grow(strategy.model, state["model"], benchmark, done)
    load_model(strategy, state["model"])
    parameters = dict(strategy.model.named_parameters())
    for name, trained in state["trained"].items():
        parameters[name].requires_grad_(trained)
    if state["strategy"] is not None:
        strategy.load_state_dict(state["strategy"])
    for part, saved in zip(_parts(strategy), state["parts"], strict=True):
        if saved is not None:
            part.load_state_dict(saved)
    if state["optimizer"] is not None:
        _load_optimizer(strategy, state["optimizer"])
    for name in vars(strategy.clock):
        setattr(strategy.clock, name, int(state["clock"][name]))
    strategy.evaluator.last_metric_results = dict(state["last"])
    curves = strategy.evaluator.all_metric_results
    curves.clear()
    curves.update({name: ([*x], [*y]) for name, (x, y) in state["all"].items()})


def _parts(strategy: Any) -> list[Any]:
    """What is built in the same order each time."""
    return [*strategy.plugins, *strategy.evaluator.metrics]


def _classes(strategy: Any) -> list[str]:
    parts = (strategy, _optimizer(strategy), *_parts(strategy))
    return [type(part).__name__ for part in parts]


def _optimizer(strategy: Any) -> Any:
    """The optimizer, unless the strategy makes it and its own state has it."""
    return None if getattr(strategy, "optimizer_in_state", False) else strategy.optimizer


# ---- Model -----------------------------------------------------------------------------------


def model_state(strategy: Any) -> dict[str, Tensor]:
    """The model's tensors, without those that the strategy's own state has."""
    state, apart = strategy.model.state_dict(), _apart(strategy)
    return {name: value for name, value in state.items() if not name.startswith(apart)}


def _apart(strategy: Any) -> tuple[str, ...]:
    """How names begin of what the strategy's own state has."""
    return tuple(f"{name}." for name in getattr(strategy, "modules_in_state", ()))


def load_model(strategy: Any, state: Mapping[str, Tensor]) -> None:
    """Take over tensors of :func:`model_state`.

    Raises:
        ValueError: they have other names or shapes.
    """
    there, here = _shapes(state), _shapes(model_state(strategy))
    if there != here:
        names = sorted(n for n in there.keys() | here.keys() if there.get(n) != here.get(n))
        raise ValueError(f"the model has other tensors: {', '.join(names[:4])}")
    strategy.model.load_state_dict(state, strict=False)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _grow(model: nn.Module, saved: Mapping[str, Tensor], benchmark: Any, done: int) -> None:
    """Let Avalanche adapt the model to the experiences done, and to those evaluated if need be."""
    with in_mode(model, training=True):
        for experience in benchmark.train_stream[:done]:
            avalanche_model_adaptation(model, experience)
    with in_mode(model, training=False):
        for experience in benchmark.test_stream:
            if _shapes(saved).items() <= _shapes(model.state_dict()).items():
                break
            avalanche_model_adaptation(model, experience)


# ---- Optimizer, by the names of the model's parameters ---------------------------------------


def _optimised(strategy: Any) -> dict[str, Any] | None:
    """What Avalanche remembers of what it gave to the optimizer, by name."""
    return getattr(strategy, "optimized_param_id", None)


def _names(strategy: Any) -> list[str] | None:
    """The names of what is optimised, in order; None where something has no name.

    A parameter that the model has replaced since has the name of its successor.
    """
    known = {id(p): name for name, p in (_optimised(strategy) or {}).items()}
    known |= {id(p): name for name, p in strategy.model.named_parameters()}
    groups = strategy.optimizer.param_groups
    names = [known.get(id(p)) for group in groups for p in group["params"]]
    return None if None in names else [name for name in names if name is not None]


def _optimizer_state(strategy: Any) -> dict[str, Any]:
    """Its state dict with names in the place of numbers.

    A replaced parameter's state is left out: Avalanche drops it before the next experience.
    """
    optimizer, names = strategy.optimizer, _names(strategy) or []
    current = {id(p) for p in strategy.model.parameters()}
    state, groups = optimizer.state_dict(), []
    for group, live in zip(state["param_groups"], optimizer.param_groups, strict=True):
        groups.append({**group, "params": [names[i] for i in group["params"]]})
        for i, p in zip(group["params"], live["params"], strict=True):
            if id(p) not in current:
                state["state"].pop(i, None)
    optimised = _optimised(strategy)
    return {
        "groups": groups,
        "state": {names[i]: value for i, value in state["state"].items()},
        "optimised": None if optimised is None else [*optimised],
    }


def _load_optimizer(strategy: Any, saved: Mapping[str, Any]) -> None:
    """Let it have the saved groups, settings and state, of the model's present parameters."""
    optimizer, parameters = strategy.optimizer, dict(strategy.model.named_parameters())
    if len(saved["groups"]) != len(optimizer.param_groups):
        raise ValueError("the optimizer has another number of groups")
    numbers: dict[str, int] = {}
    groups = []
    for live, group in zip(optimizer.param_groups, saved["groups"], strict=True):
        live["params"] = [parameters[name] for name in group["params"]]
        for name in group["params"]:
            numbers[name] = len(numbers)
        groups.append({**group, "params": [numbers[name] for name in group["params"]]})
    optimizer.state.clear()
    state = {numbers[name]: value for name, value in saved["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    names = saved["optimised"]
    strategy.optimized_param_id = None if names is None else {n: parameters[n] for n in names}


@contextmanager
def fitting(file: Path) -> Iterator[None]:
    """Whatever a file that was not written for this strategy causes, as a ValueError."""
    try:
        yield
    except Exception as error:
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{file} does not fit this strategy and benchmark ({what}{str(error)[:300]}). Build "
            "them as in the run that saved it, or start anew."
        ) from error
