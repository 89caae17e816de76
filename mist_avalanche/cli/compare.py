"""``mist-avalanche compare``: several strategies, with and without MIST."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from .options import add_experiment, config_of, setting

if TYPE_CHECKING:
    from ..runs import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    add_experiment(parser)
    parser.add_argument(
        "--strategies",
        help="comma-separated; '+mist' adds MISTPlugin, '+joined' the features before tuning, "
        "'+drift' drift compensation; your own as package.module:Class or ./file.py:Class; "
        "default: simplecil and ranpac with and without MIST, and Avalanche's naive, replay, ewc, "
        "lwf, er_ace, der, scr, streaming_lda, joint",
    )
    parser.add_argument(
        "--grid",
        action="append",
        metavar="KEY=VALUE,...",
        type=setting,
        help="compare several values of mist.ARGUMENT or STRATEGY.ARGUMENT; repeat it to compare "
        "all combinations: --grid mist.lr=0.001,0.003 --grid ranpac.n_random_features=2000,5000",
    )


def execute(args: argparse.Namespace) -> None:
    """Run all methods, and compare them in tables, figures and one HTML page."""
    from ..strategies.registry import COMPARED
    from .experiment import run_and_report

    base = config_of(args)
    names = args.strategies.split(",") if args.strategies else COMPARED
    methods = [method(name.strip(), base) for name in names]
    run_and_report(on_grid(methods, dict(args.grid or {})), args, "comparison")


def method(name: str, base: "RunConfig") -> "RunConfig":
    """The settings of a method such as ``ranpac+mist+drift``."""
    place, colon, last = name.rpartition(":")  # a path may have a plus sign
    strategy, *additions = last.split("+")
    if unknown := {*additions} - {"mist", "joined", "drift"}:
        known = "'+mist', '+joined', '+drift'"
        raise ValueError(f"Unknown addition '+{min(unknown)}' in {name!r}. Use {known}.")
    joined = {"joined": True} if "joined" in additions else {}
    return replace(
        base,
        strategy=place + colon + strategy,
        strategy_args={**base.strategy_args, **joined},
        mist="mist" in additions,
        drift_compensation="drift" in additions,
    )


def on_grid(methods: Sequence["RunConfig"], grid: Mapping[str, Any]) -> list["RunConfig"]:
    """Every method with every combination of its grid values, which its name then shows."""
    from ..strategies.registry import find

    values = {key: v if isinstance(v, list) else [v] for key, v in grid.items()}
    found, used = [], set()
    for config in methods:
        strategy = find(config.strategy).name
        keys = [key for key in values if key.partition(".")[0] in config.label.split("+")]
        used |= {*keys}
        for chosen in product(*(values[key] for key in keys)):
            own: dict[str, dict[str, Any]] = {part: {} for part in config.label.split("+")}
            for key, value in zip(keys, chosen, strict=True):
                owner, _, name = key.partition(".")
                own[owner][name] = value
            strategy_args = {**config.strategy_args, **own[strategy]}
            mist_args = {**config.mist_args, **own.get("mist", {})}
            label = "+".join(part + _suffix(values) for part, values in own.items())
            found.append(
                replace(config, strategy_args=strategy_args, mist_args=mist_args, name=label)
            )
    if unused := values.keys() - used:
        raise ValueError(
            f"--grid {min(unused)}: no method has it. Use STRATEGY.ARGUMENT with the name of a "
            "strategy in --strategies, or mist.ARGUMENT with '+mist' in one of them."
        )
    return found


def _suffix(values: Mapping[str, Any]) -> str:
    """Grid values as part of a label, ``@lr=0.001``, without + and /, which are special there."""
    text = ",".join(f"{name}={value}" for name, value in values.items())
    return f"@{text.replace('+', '').replace('/', '-')}" * bool(text)
