"""Checks before a run: unknown names, values out of range, combinations with wrong numbers."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ..models.backbones import check_backbone
from ..models.defaults import NORMALIZATIONS, PRECISIONS
from ..plugin import MISTPlugin
from ..strategies.base import arguments_of
from ..strategies.registry import StrategyInfo, find
from ..utils import check_choice, check_integer, nearest_first
from .build import OPTIONS, find_benchmark, make_mist
from .config import RunConfig

# arguments that have an option of the command
_OF_BENCHMARKS = {
    "n_experiences": "--experiences",
    "dataset_root": "--dataset-root",
    "seed": "--order-seed",
    "image_size": "--image-size",
    "normalize": "--normalize",
    "backbone": "--backbone",
}
_OF_MIST = {"precision": "--precision", "compile": "--compile"}
_GIVEN_BY_THE_RUN = {"evaluator", "eval_every", "criterion", "optimizer"}


def check_runs(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Check runs that share their options, and give each the arguments that are its own.

    Arguments of a strategy have to be known to at least one method, and go only to those that take
    them. Arguments of MISTPlugin go to runs with MIST, of which there has to be one.

    Returns:
        The runs, in order.

    Raises:
        FileNotFoundError: there is no file with the weights.
        ValueError: an unknown name or argument, with the nearest ones; a value out of range; a
            combination that cannot work.
    """
    for name in {name: None for config in configs for name in config.strategy_args}:
        infos = [find(config.strategy) for config in configs]
        if not any(name in settable(info) for info in infos):
            _unknown(name, infos[0].title, settable(infos[0]), OPTIONS)
    for config in configs:
        if config.mist_args and not any(c.mist for c in configs):
            given = ", ".join(config.mist_args)
            raise ValueError(f"{given}: for MISTPlugin, but no run has it. Add --mist or '+mist'.")
    checked = [_with_its_own(config) for config in configs]
    for config in checked:
        _check(config)
    return checked


def settable(info: StrategyInfo) -> set[str]:
    """Arguments of a strategy that may be given as ``strategy_args``."""
    return arguments_of(info.build) - OPTIONS.keys() - _GIVEN_BY_THE_RUN


def _with_its_own(config: RunConfig) -> RunConfig:
    """A run without arguments that only other methods take."""
    known = settable(find(config.strategy))
    given = {name: value for name, value in config.strategy_args.items() if name in known}
    return replace(config, strategy_args=given, mist_args=config.mist_args if config.mist else {})


def _check(config: RunConfig) -> None:
    info = find(config.strategy)
    check_choice("precision", config.precision, PRECISIONS)
    if config.normalize is not None:
        check_choice("normalize", config.normalize, NORMALIZATIONS)
    check_integer("experiences", config.experiences, 1)
    check_integer("num_workers", config.num_workers, 0)
    if config.first is not None and not 1 <= config.first <= config.experiences:
        raise ValueError(f"Expected `first` in [1, {config.experiences}], got {config.first}.")
    function = find_benchmark(config.benchmark)
    known = {*inspect.signature(function).parameters} - _OF_BENCHMARKS.keys()
    for name in config.benchmark_args:
        if name not in known:
            _unknown(name, f"benchmark {config.benchmark!r}", known, _OF_BENCHMARKS)
    check_backbone(config.backbone, config.weights, config.image_size)
    if config.benchmark == "glyphs" and config.inputs["image_size"] != 32:
        raise ValueError(
            f"Glyphs are 32 pixels wide; {config.backbone!r} takes {config.inputs['image_size']}."
        )
    if config.drift_compensation and "drift_compensation" not in arguments_of(info.build):
        raise ValueError(f"{info.title} stores no features, so it has no drift to compensate.")
    if config.mist:
        _check_mist(config, info)


def _check_mist(config: RunConfig, info: StrategyInfo) -> None:
    known = {*inspect.signature(MISTPlugin).parameters} - _OF_MIST.keys()
    for name in config.mist_args:
        if name not in known:
            _unknown(name, "MISTPlugin", known, _OF_MIST)
    make_mist(config, verbose=False)  # which checks the ranges
    if config.settings()["mist_args"].get("tune_on") == "every" and not info.follows_tuning:
        raise ValueError(
            f"{info.title} cannot follow a backbone that is tuned before every experience. Use "
            "--mist-arg tune_on=first."
        )


def _unknown(name: str, what: str, known: Collection[str], options: Mapping[str, str]) -> None:
    """ValueError for an argument that is not known, or has an option of its own."""
    if name in options:
        raise ValueError(f"{name!r} is not an argument here. Use {options[name]}.")
    raise ValueError(f"{what} has no argument {name!r}. It has {nearest_first(name, known)}.")
