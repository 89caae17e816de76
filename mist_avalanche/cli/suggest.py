"""``mist-avalanche suggest``: learning rates tried on the first experience's training images."""

from __future__ import annotations

import argparse
from dataclasses import replace

from tabulate import tabulate

from ..runs.config import LRS
from ..runs.settings_check import check_settings
from ..runs.suggest import best, suggest
from .run import config_of


def execute(args: argparse.Namespace) -> None:
    """Print accuracy and loss of every learning rate, and the choice."""
    config = replace(config_of(args), mist=True)
    check_settings([config])
    lrs = [float(lr) for lr in args.lrs.split(",")] if args.lrs else LRS
    trials = suggest(config, lrs, args.splits, progress=not args.quiet)
    chosen = best(trials)
    rows = [
        ("frozen" if t.lr is None else f"{t.lr:g}", f"{t.accuracy:.1f}", f"{t.loss:.3f}")
        for t in trials
    ]
    print(tabulate(rows, ("lr", "accuracy", "loss"), disable_numparse=True))
    if chosen.lr is None:
        print(
            "\nNo learning rate does better than the frozen backbone on these held-out images. "
            "--splits 5 looks at more of them."
        )
    else:
        print(f"\nUse --lr {chosen.lr:g}")
