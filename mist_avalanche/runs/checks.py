"""Checks before a run: unknown names, values out of range, combinations that cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ..models.backbones import check_backbone
from ..models.defaults import NORMALIZATIONS, PRECISIONS
from ..plugin import MISTPlugin
from ..strategies.registry import StrategyInfo, arguments_of, find
from ..utils import check_choice, check_integer, nearest_first
from .build import find_benchmark, make_mist
from .config import RunConfig

# arguments that have an option of the command
_OPTIONS = {
    "model": "--backbone",
    "backbone": "--backbone",
    "plugins": "--mist",
    "device": "--device",
    "precision": "--precision",
    "compile": "--compile",
    "drift_compensation": "--drift-compensation",
    "n_experiences": "--experiences",
    "dataset_root": "--dataset-root",
    "image_size": "--image-size",
    "normalize": "--normalize",
}
_OF_BENCHMARKS = {**_OPTIONS, "seed": "--order-seed"}


def check_runs(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Check runs that share their options, and give each the arguments that it takes.

    An argument of a strategy has to be known to at least one method, and goes to those that have
    it. Arguments of MISTPlugin go to runs with MIST, of which there has to be one.

    Raises:
        FileNotFoundError: there is no file with the weights.
        ValueError: an unknown name or argument, with the nearest ones; a value out of range; a
            combination that cannot work.
    """
    infos = [find(config.strategy) for config in configs]
    for name in {name: None for config in configs for name in config.strategy_args}:
        if not any(name in arguments_of(info) for info in infos):
            _refuse(name, infos[0].title, arguments_of(infos[0]))
    for config in configs:
        if config.mist_args and not any(c.mist for c in configs):
            raise ValueError(
                f"{', '.join(config.mist_args)}: of MISTPlugin, but no run has it. Add --mist, or "
                "'+mist' to a method."
            )
    checked = []
    for config, info in zip(configs, infos, strict=True):
        strategy_args = {k: v for k, v in config.strategy_args.items() if k in arguments_of(info)}
        mist_args = config.mist_args if config.mist else {}
        checked.append(replace(config, strategy_args=strategy_args, mist_args=mist_args))
        _check(checked[-1], info)
    return checked


def _check(config: RunConfig, info: StrategyInfo) -> None:
    """Check one run."""
    check_backbone(config.backbone, config.weights, config.image_size)
    check_choice("precision", config.precision, PRECISIONS)
    check_choice("normalize", config.inputs["normalize"], NORMALIZATIONS)
    check_integer("num_workers", config.num_workers, 0)
    if config.first is not None and not 1 <= config.first <= config.experiences:
        raise ValueError(f"Expected `first` in [1, {config.experiences}], got {config.first}.")
    known = {*inspect.signature(find_benchmark(config.benchmark)).parameters}
    for name in config.benchmark_args:
        what = f"benchmark {config.benchmark!r}"
        _refuse(name, what, known - _OF_BENCHMARKS.keys(), _OF_BENCHMARKS)
    if config.benchmark == "glyphs" and config.inputs["image_size"] != 32:
        raise ValueError(
            f"Glyphs are 32 pixels wide; {config.backbone!r} takes {config.inputs['image_size']}."
        )
    if config.drift_compensation and not info.has_drift:
        raise ValueError(f"{info.title} stores no features, so it has no drift to compensate.")
    if not config.mist:
        return
    known = {*inspect.signature(MISTPlugin).parameters}
    for name in config.mist_args:
        _refuse(name, "MISTPlugin", known - _OPTIONS.keys())
    make_mist(config, verbose=False)  # which checks the ranges
    if config.settings()["mist_args"].get("tune_on") == "every" and not info.follows_tuning:
        raise ValueError(
            f"{info.title} cannot follow a backbone that is tuned before every experience. Use "
            "--mist-arg tune_on=first."
        )


def _refuse(
    name: str, what: str, known: Collection[str], options: Mapping[str, str] = _OPTIONS
) -> None:
    """ValueError for an argument that is not known, or has an option of its own."""
    if name in options:
        raise ValueError(f"{name!r} is not an argument here. Use {options[name]}.")
    if name not in known:
        raise ValueError(f"{what} has no argument {name!r}. It has {nearest_first(name, known)}.")
