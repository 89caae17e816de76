"""Checks before a run: unknown names, values out of range, impossible combinations."""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import replace

from ..models.backbones import check_backbone
from ..models.defaults import PRECISIONS
from ..plugin import MISTPlugin
from ..strategies.registry import StrategyInfo, arguments_of, find
from ..utils import check_choice, check_integer, nearest_first
from .build import find_benchmark, make_mist
from .config import RunConfig

# Arguments of benchmarks that have their own option
_HAVE_OPTIONS = {"n_experiences", "seed", "dataset_root", "backbone", "image_size", "normalize"}


def check_runs(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Check runs that share their options, and give each the arguments that it takes.

    A strategy argument must be known to at least one method, and is passed to those that have it.
    Arguments of MISTPlugin are passed to runs with MIST, and require at least one such run.

    Raises:
        FileNotFoundError: the file with the weights does not exist.
        ValueError: a name or argument is unknown (the message lists similar ones), a value is out
            of range, or a combination is impossible.
    """
    infos = [find(config.strategy) for config in configs]
    taken = [arguments_of(info) for info in infos]
    titles = "/".join(dict.fromkeys(info.title for info in infos))
    for name in {name for config in configs for name in config.strategy_args}:
        _check_argument(name, titles, set().union(*taken))
    checked = []
    for config, info, known in zip(configs, infos, taken, strict=True):
        if config.mist_args and not any(c.mist for c in configs):
            raise ValueError(
                f"{', '.join(config.mist_args)}: for MISTPlugin, but no run has one. Add --mist or "
                "'+mist' to a method."
            )
        strategy_args = {k: v for k, v in config.strategy_args.items() if k in known}
        mist_args = config.mist_args if config.mist else {}
        checked.append(replace(config, strategy_args=strategy_args, mist_args=mist_args))
        _check(checked[-1], info)
    return checked


def _check(config: RunConfig, info: StrategyInfo) -> None:
    """Check one run."""
    check_backbone(config.backbone, config.weights, config.image_size)
    check_choice("precision", config.precision, PRECISIONS)
    check_integer("num_workers", config.num_workers, 0)
    if config.first is not None and not 1 <= config.first <= config.experiences:
        raise ValueError(f"Expected `first` in [1, {config.experiences}], got {config.first}.")
    known = {*inspect.signature(find_benchmark(config.benchmark)).parameters}
    for name in config.benchmark_args:
        if name in _HAVE_OPTIONS:
            names = {"n_experiences": "experiences", "seed": "order-seed"}
            option = names.get(name, name.replace("_", "-"))
            raise ValueError(f"Use --{option} instead of {name!r}.")
        what = f"benchmark {config.benchmark!r}"
        _check_argument(name, what, known - _HAVE_OPTIONS)
    for option, name in (("order_seed", "seed"), ("dataset_root", "dataset_root")):
        if name not in known and getattr(config, option) != getattr(RunConfig, option):
            raise ValueError(f"Benchmark {config.benchmark!r} takes no {name!r}. Omit it.")
    if config.benchmark == "glyphs" and config.inputs["image_size"] != 32:
        raise ValueError(
            f"Glyphs are 32 pixels wide; {config.backbone!r} takes {config.inputs['image_size']}."
        )
    if "normalize" not in known and config.inputs["mean"] is not None:
        raise ValueError(
            f"{config.backbone!r} takes normalised images, and benchmark {config.benchmark!r} has "
            "no argument 'normalize'. Add it, or use --normalize none if images need none."
        )
    if config.drift_compensation and not info.has_drift:
        raise ValueError(f"{info.title} stores no features, so it has no drift to compensate.")
    if config.mist:
        for name in config.mist_args:
            _check_argument(name, "MISTPlugin", inspect.signature(MISTPlugin).parameters)
        make_mist(config, verbose=False)  # checks the ranges
        every = config.settings()["mist_args"].get("tune_on") == "every"
        if every and not info.follows_tuning:
            raise ValueError(
                f"{info.title} cannot follow a backbone that is tuned before every experience. Use "
                "--mist-arg tune_on=first."
            )


def _check_argument(name: str, what: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} has no argument {name!r}. It has {nearest_first(name, known)}.")
