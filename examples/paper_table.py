"""The six hosts of the paper, each with and without MIST, on one benchmark: a table of twelve.

Options are those of `mist-avalanche compare`, without --strategies, and --settings FILE.json with
options of each host, under the names that RunConfig has for them:

    {"slca": {"strategy_args": {"train_epochs": 50}, "mist_args": {"lr": 1e-4}}}

--dry-run prints one line a run, and about how long all of it takes here.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from mist_avalanche.cli.options import parser
from mist_avalanche.cli.run import carry_out, config_of
from mist_avalanche.runs.estimate import estimate, seconds_an_image
from mist_avalanche.runs.settings_check import check_settings
from mist_avalanche.runs.work import PAPER_HOSTS
from mist_avalanche.strategies.registry import check_strategy

OF_A_HOST = ("strategy_args", "mist_args")


def arguments():
    """The options of compare, and the settings of hosts."""
    own = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument("--settings", type=Path, metavar="FILE.json", help="options of each host")
    given, rest = own.parse_known_args()
    args = parser().parse_args(["compare", *rest])
    if args.strategies != parser().parse_args(["compare"]).strategies:
        own.error("the hosts are the paper's; for others use `mist-avalanche compare --strategies`")
    args.settings = given.settings
    return args


def settings_of(file):
    """By host, its options; an error names what is not known."""
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error
    for host, options in found.items():
        if host not in PAPER_HOSTS:
            raise ValueError(f"{file} has {host!r}. The hosts are {', '.join(PAPER_HOSTS)}.")
        for name in options:
            if name not in OF_A_HOST:
                raise ValueError(f"{file} has {host}.{name}. Use {' or '.join(OF_A_HOST)}.")
        check_strategy(host, options.get("strategy_args", {}))
    return found


def methods_of(config, settings):
    """Every host without and with MIST, by its label."""
    methods = {}
    for host in PAPER_HOSTS:
        own = settings.get(host, {})
        given = {name: {**getattr(config, name), **own.get(name, {})} for name in OF_A_HOST}
        for mist in (False, True):
            one = replace(config, strategy=host, mist=mist, **given)
            methods[one.label] = one
        check_settings([replace(config, strategy=host, mist=True, mist_args=given["mist_args"])])
    return methods


def show(methods, n_seeds):
    """One line a run, and the estimate of all of them."""
    first = next(iter(methods.values()))
    speed, rows, total = seconds_an_image(first), [], 0.0
    for config in methods.values():
        work = estimate(config)
        for seed in range(config.seed, config.seed + n_seeds):
            seconds = work.seconds(*speed)
            total += seconds
            mist = f"{work.mist_epochs} epochs" if config.mist else "-"
            images = work.forward, work.backward
            rows.append((config.strategy, mist, seed, work.epochs, *images, duration(seconds)))
    heads = ("host", "MIST", "seed", "epochs", "images forward", "forward and back", "about")
    print(tabulate(rows, heads))
    print(
        f"\nAn estimate: {1000 * speed[0]:.2f} ms an image forward and {1000 * speed[1]:.2f} ms "
        f"forward and back, measured here, make {duration(total)} for {len(rows)} runs one after "
        "the other. Reading images, the ridge and the alignment come on top."
    )


def duration(seconds):
    """In the unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main():
    """Print the plan, or run it."""
    args = arguments()
    try:
        config = config_of(args)
        methods = methods_of(config, settings_of(args.settings))
        args.output = args.output or f"results/{config.benchmark}-paper"
        args.command_line = shlex.join(["python", *sys.argv])
        carry_out(methods, args)
        if args.dry_run:
            show(methods, args.seeds)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"paper_table.py: {error}")


if __name__ == "__main__":  # runs may be processes of their own, which read this file again
    main()
