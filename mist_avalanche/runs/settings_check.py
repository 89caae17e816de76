"""Settings that would be ignored, or that nobody knows: an error that names them, before a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .._support.checks import nearest_first
from ..benchmarks import SplitGlyphs, SplitImageNetR, SplitOmniglot
from ..method.options import MISTOptions, idle_options
from ..models.backbones import check_backbone
from ..plugin import MISTPlugin
from ..strategies.baselines import EPOCHS, LR, TRAINED_BASELINES
from ..strategies.registry import OWN_STRATEGIES, arguments_of, check_strategy, takes
from .config import BENCHMARKS, RunConfig, check_glyphs

_BENCHMARK_OPTIONS = {
    "n_experiences": "--experiences",
    "dataset_root": "--dataset-root",
    "seed": "--order-seed",
    "image_size": "--image-size",
    "normalize": "--normalize",
    "backbone": "--backbone",
}
_MIST_OPTIONS = {"precision": "--precision", "compile": "--compile"}
_OF_DRIFT = ("memory",)  # of RanPAC
_OF_MIST = ("mist_args", "checkpoint_every")
_OF_THE_BACKBONE = ("precision", "compile")


def check_settings(configs: Sequence[RunConfig]) -> None:
    """Every setting known, and of effect in at least one of the runs that share it.

    Raises:
        FileNotFoundError: there is no file of weights.
        ValueError: a setting that is not known, with the nearest ones, out of its range, or without
            effect.
    """
    for config in configs:
        if config.benchmark not in BENCHMARKS:
            raise ValueError(
                f"Unknown benchmark {config.benchmark!r}. Use one of {', '.join(BENCHMARKS)}."
            )
        check_strategy(config.strategy, drift=config.drift_compensation)
        _check_names("benchmark", config.benchmark_args, _of_benchmark(config), _BENCHMARK_OPTIONS)
        _check_names("MISTPlugin", config.mist_args, _of(MISTPlugin), _MIST_OPTIONS)
        check_backbone(config.backbone, config.weights, config.image_size)
        if config.first is not None and not 1 <= config.first <= config.experiences:
            raise ValueError(
                f"Expected the first 1 to {config.experiences} experiences, got {config.first}."
            )
        if config.benchmark == "glyphs":
            check_glyphs(config)
        for what, why in _idle_benchmark(config):
            raise ValueError(f"{what} has no effect: {why}. Leave it away.")
    for name in sorted({name for config in configs for name in config.strategy_args}):
        if not any(name in arguments_of(config.strategy) for config in configs):
            check_strategy(configs[0].strategy, [name])  # which says what there is instead
        if name in _OF_DRIFT and not any(config.drift_compensation for config in configs):
            raise ValueError(
                f"{name!r} has no effect without drift compensation. Add --drift-compensation, or "
                "a method with '+drift', or leave it away."
            )
    _check_options([config for config in configs if config.mist])
    for name in (*_OF_MIST, *_OF_THE_BACKBONE):
        if not any(_uses(config, name) for config in configs):
            _refuse(name, configs)


def plan(configs: Sequence[RunConfig], n_seeds: int, output: Path) -> str:
    """What is about to run, in a few lines."""
    first, inputs = configs[0], configs[0].inputs
    where = f", from {first.dataset_root}" if first.dataset_root else ""
    scale = "images in [0, 1]"
    if inputs["mean"] is not None:
        mean, std = (", ".join(f"{v:g}" for v in inputs[key]) for key in ("mean", "std"))
        scale = f"mean {mean}; std {std}"
    size = f"{inputs['image_size']} pixels, {inputs['normalize']}: {scale}"
    experiences = f"{first.experiences} experiences"
    if first.first is not None:
        experiences = f"the first {first.first} of {experiences}"
    parts = [first.benchmark, _listed(first.benchmark_args), experiences]
    rows = [
        ("benchmark", ", ".join(filter(None, parts)) + where),
        ("backbone", first.backbone + (f", weights {first.weights}" if first.weights else "")),
        ("inputs", size),
        ("seeds", f"{first.seed} to {first.seed + n_seeds - 1}" if n_seeds > 1 else first.seed),
        ("output", output),
    ]
    for config in configs:
        settings = only_used(config).settings()
        of_mist = f"MIST: {_listed(_effective(config))}" if config.mist else ""
        shown = {"lr": LR, "train_epochs": EPOCHS} if config.strategy in TRAINED_BASELINES else {}
        own = _listed({**shown, **settings["strategy_args"]})
        rows.append((config.label, "; ".join(filter(None, (own, of_mist)))))
    return f"{tabulate(rows, tablefmt='plain', disable_numparse=True)}\n"


def mist_options(config: RunConfig) -> MISTOptions:
    """MIST's options in a run that has it, with ``tune_on`` as the strategy fills it in."""
    options = MISTOptions(**only_used(config).settings()["mist_args"])
    own: Any = getattr(OWN_STRATEGIES.get(config.strategy), "tune_on", "every")
    return replace(options, tune_on=options.tune_on or own)


def _effective(config: RunConfig) -> dict[str, Any]:
    """What matters most of MIST's options, and those that are not the paper's."""
    options = mist_options(config)
    most = ("tune_on", "lr", "tune_epochs", "batch_size")
    given = only_used(config).settings()["mist_args"]
    return {**{name: getattr(options, name) for name in most}, **given}


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def only_used(config: RunConfig) -> RunConfig:
    """The settings that a method of several uses, of those that all were given."""
    default = RunConfig()
    known = arguments_of(config.strategy) - {*(() if config.drift_compensation else _OF_DRIFT)}
    own = {k: v for k, v in config.strategy_args.items() if k in known}
    idle = [name for name in (*_OF_MIST, *_OF_THE_BACKBONE) if not _uses(config, name)]
    values = {name: getattr(default, name) for name in idle}
    if config.mist:
        effective = config.settings()["mist_args"]
        idle_args = {*idle_options(effective)}
        values["mist_args"] = {k: v for k, v in config.mist_args.items() if k not in idle_args}
    return replace(config, strategy_args=own, **values)


def _check_options(configs: Sequence[RunConfig]) -> None:
    """Options of MIST in their range, and each of effect in at least one of the runs."""
    idle = [idle_options(config.settings()["mist_args"]) for config in configs]
    for name, why in (idle[0] if idle else {}).items():
        if all(name in others for others in idle):
            raise ValueError(f"MISTPlugin's {name} has no effect: {why}. Leave it away.")
    for config in configs:
        mist_options(config)  # which checks them


def check_order_varies(configs: Sequence[RunConfig], n_seeds: int) -> None:
    """A class order of its own for every seed makes a difference.

    Raises:
        ValueError: there is one seed, or the order is fixed.
    """
    if n_seeds < 2:
        raise ValueError(
            "--vary-order (vary_order=True) has no effect on one seed. Add --seeds N, or give "
            "--order-seed."
        )
    if any(map(order_is_fixed, configs)):
        raise ValueError(
            "--vary-order (vary_order=True) has no effect: the class order is fixed by the "
            "benchmark's arguments. Leave one of them away."
        )


def order_is_fixed(config: RunConfig) -> bool:
    """Whether the benchmark's arguments say what the class order is, whatever the seed."""
    args = config.benchmark_args
    return args.get("fixed_class_order") is not None or args.get("shuffle") is False


def _uses(config: RunConfig, name: str) -> bool:
    """Whether a setting changes anything in a run."""
    if name == "checkpoint_every" and _is_kept(config.strategy):
        return True
    return config.mist or (name in _OF_THE_BACKBONE and takes(config.strategy, name))


def _is_kept(strategy: str) -> bool:
    """Whether there are checkpoints within an experience's training."""
    return hasattr(OWN_STRATEGIES.get(strategy), "keeper")


def _refuse(name: str, configs: Sequence[RunConfig]) -> None:
    """An error where a setting that no run uses was given."""
    default = getattr(RunConfig(), name)
    given = next((c for c in configs if getattr(c, name) != default), None)
    if given is None:
        return
    if name == "mist_args":
        what = f"MISTPlugin's {', '.join(sorted(given.mist_args))}"
    else:
        what = f"--{name.replace('_', '-')} ({getattr(given, name)})"
    runs = " and ".join(sorted({c.strategy for c in configs}))
    needs = "--mist, or a method with '+mist'"
    if name in _OF_THE_BACKBONE:
        needs += f", or {' or '.join(s for s in OWN_STRATEGIES if takes(s, name))}"
    elif name == "checkpoint_every":
        needs += f", or {' or '.join(filter(_is_kept, OWN_STRATEGIES))}"
    raise ValueError(f"{what} has no effect in {runs}: it needs {needs}.")


def _of(function: Any) -> set[str]:
    return {*inspect.signature(function).parameters} - {"self"}


def _of_benchmark(config: RunConfig) -> set[str]:
    """Arguments of a benchmark that the command has no option for."""
    kinds: Mapping[str, Any] = {"glyphs": SplitGlyphs, "omniglot": SplitOmniglot}
    return _of(kinds.get(config.benchmark, SplitImageNetR)) - {*_BENCHMARK_OPTIONS}


def _check_names(
    what: str, given: Mapping[str, Any], known: set[str], elsewhere: Mapping[str, str]
) -> None:
    for name in given:
        if name in elsewhere:
            raise ValueError(f"{name!r} is not an argument here. Use {elsewhere[name]}.")
        if name not in known:
            raise ValueError(
                f"{what} has no argument {name!r}. It has {nearest_first(name, known)}."
            )


def _idle_benchmark(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What was set of the benchmark and has no effect, and why."""
    if config.benchmark == "glyphs":
        if config.dataset_root is not None:
            yield "--dataset-root", "glyphs are drawn, not read"
        if config.normalize == "published":
            yield "--normalize", "glyphs are drawn as the embedded backbone was pretrained"
    if order_is_fixed(config) and config.order_seed != RunConfig.order_seed:
        yield "--order-seed", "the class order is fixed by the benchmark's arguments"
