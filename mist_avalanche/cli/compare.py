"""``mist-avalanche compare``: several strategies, with and without MIST."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from .options import add_experiment, config_of

if TYPE_CHECKING:
    from ..runs import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``compare``."""
    add_experiment(parser)
    parser.add_argument(
        "--strategies",
        help="comma-separated; '+mist' adds MISTPlugin, '+drift' drift compensation; your own as "
        "package.module:Class or ./file.py:Class; default: simplecil and ranpac with and without "
        "MIST, and Avalanche's naive, replay, ewc, lwf, er_ace, der, scr, streaming_lda, joint",
    )


def execute(args: argparse.Namespace) -> None:
    """Run every method, and compare them in tables, figures and one page."""
    from ..strategies.registry import COMPARED
    from .experiment import run_and_report

    base = config_of(args)
    names = args.strategies.split(",") if args.strategies else COMPARED
    run_and_report([method(name.strip(), base) for name in names], args, "comparison")


def method(name: str, base: RunConfig) -> RunConfig:
    """The settings of a method such as ``ranpac+mist+drift``."""
    place, colon, last = name.rpartition(":")  # a path may have a plus sign
    strategy, *additions = last.split("+")
    if unknown := {*additions} - {"mist", "drift"}:
        raise ValueError(f"Unknown addition '+{min(unknown)}' in {name!r}. Use '+mist', '+drift'.")
    return replace(
        base,
        strategy=place + colon + strategy,
        mist="mist" in additions,
        drift_compensation="drift" in additions,
    )
