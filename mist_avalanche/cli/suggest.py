"""``mist-avalanche suggest``: learning rates tried on training images of the first experience."""

from __future__ import annotations

import argparse
from dataclasses import replace

from tabulate import tabulate

from .options import add_settings, config_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``suggest``."""
    add_settings(parser)
    add = parser.add_argument
    add("--lrs", metavar="LR,…", help="default: 0.0003,0.001,0.003,0.01,0.03")
    add("--splits", type=int, default=1, metavar="N", help="draws to average")


def execute(args: argparse.Namespace) -> None:
    """Print accuracy and loss of every learning rate, and the best one."""
    from ..runs.checks import check_runs
    from ..runs.suggest import LRS, best, suggest

    (config,) = check_runs([replace(config_of(args), mist=True)])
    lrs = args.lrs.split(",") if args.lrs else LRS
    trials = suggest(config, lrs, args.splits, progress=not args.quiet)
    rows = [
        ("frozen" if lr is None else f"{lr:g}", f"{accuracy:.1f}", f"{loss:.3f}")
        for lr, accuracy, loss in trials
    ]
    print(tabulate(rows, ("lr", "accuracy", "loss"), disable_numparse=True))
    lr = best(trials).lr
    if lr is None:
        print("\nNo learning rate does better than the frozen backbone on these held-out images.")
        print("--splits 5 tries more of them.")
    else:
        print(f"\nUse --lr {lr:g}")
