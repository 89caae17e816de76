"""``mist-avalanche suggest``: tries learning rates on training images of the first experience."""

import argparse
from dataclasses import replace

from tabulate import tabulate

from .options import add_settings, config_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``suggest``."""
    add_settings(parser)
    add = parser.add_argument
    add("--lrs", metavar="LR,…", help="rates to try (default: 0.0003,0.001,0.003,0.01,0.03)")
    add("--splits", type=int, default=1, metavar="N", help="random splits to average (default: 1)")


def execute(args: argparse.Namespace) -> None:
    """Print the accuracy and gain of every learning rate, and the best one."""
    from ..runs.checks import check_runs
    from ..runs.suggest import LRS, best, suggest

    (config,) = check_runs([replace(config_of(args), mist=True)])
    lrs = args.lrs.split(",") if args.lrs else LRS
    trials = suggest(config, lrs, args.splits, progress=not args.quiet)
    rows = [
        (
            "frozen" if t.lr is None else f"{t.lr:g}",
            f"{t.accuracy:.1f}",
            "" if t.lr is None else f"{t.gain:+.1f} ± {t.half_width:.1f}",
        )
        for t in trials
    ]
    print(tabulate(rows, ("lr", "accuracy", "gain"), disable_numparse=True))
    splits = "1 split" if args.splits == 1 else f"{args.splits} splits"
    print(f"\n{trials[0].n_images} images were held out in {splits}; ± is half a 95 % interval.")
    if config.joined:
        print("The trials are of tuned features alone; runs join them with those before tuning.")
    top = best(trials)
    if top.gain > top.half_width:
        print(f"Use --lr {top.lr:g}")
    else:
        print("No learning rate differs clearly from the frozen backbone. Try more --splits.")
