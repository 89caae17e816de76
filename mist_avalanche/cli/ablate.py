"""``mist-avalanche ablate``: what each part of MIST contributes."""

from __future__ import annotations

import argparse
from dataclasses import replace

from .options import add_experiment, config_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ablate``."""
    add_experiment(parser)
    parser.add_argument(
        "--strategies",
        default="simplecil,ranpac",
        help="comma-separated (default: %(default)s)",
    )


def execute(args: argparse.Namespace) -> None:
    """Run every strategy without MIST, with it, and with each ablation."""
    from ..runs.ablations import ablated, sentences
    from .experiment import run_and_report

    base = config_of(args)
    methods = {}
    for name in args.strategies.split(","):
        methods.update(ablated(replace(base, strategy=name.strip())))
    run_and_report([*methods.values()], args, "ablations", notes=sentences(methods))
