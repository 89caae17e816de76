"""``mist-avalanche run``: runs one strategy."""

import argparse
from dataclasses import replace

from .options import add_experiment, config_of, given_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``."""
    add_experiment(parser)
    add = parser.add_argument
    add(
        "--strategy",
        help="simplecil (default), ranpac, l2p, … (see mist-avalanche list), or your own class: "
        "package.module:Class or ./file.py:Class",
    )
    add("--mist", action="store_true", help="add MISTPlugin")
    add("--drift-compensation", action="store_true", help="move statistics when MIST tunes again")


def execute(args: argparse.Namespace) -> None:
    """Run one method, or the methods of a settings file."""
    from ..runs.config_files import read_config
    from .experiment import run_and_report

    if args.config and args.save:
        raise ValueError(f"--save would omit the settings of {args.config}. Use that file again.")
    methods = read_config(args.config, given_settings(args)) if args.config else [config_of(args)]
    if len(methods) == 1:
        run_and_report(methods, args, None)
    else:
        named = [replace(m, name=f"{m.label}-order-{m.order_seed}") for m in methods]
        run_and_report(named, args, "orders")
