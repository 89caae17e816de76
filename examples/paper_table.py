"""The six strategies of the paper, each without and with MIST, on one benchmark.

Options are those of `mist-avalanche compare`. --strategies names other strategies, without `+mist`,
and --settings FILE.json has arguments of each strategy, under the names that RunConfig has for
them:

    {"slca": {"strategy_args": {"train_epochs": 50}, "mist_args": {"lr": 1e-4}}}
"""

import argparse
import json
import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from mist_avalanche.cli.experiment import run_and_report
from mist_avalanche.cli.options import add_experiment, config_of, with_options_file
from mist_avalanche.runs import RunConfig
from mist_avalanche.runs.checks import check_runs

PAPER = "simplecil,ranpac,l2p,dualprompt,ease,slca"
PARTS = {"strategy_args", "mist_args"}


def read_settings(file, strategies):
    """Arguments by strategy, checked."""
    settings = json.loads(file.read_text()) if file else {}
    if unknown := settings.keys() - {*strategies}:
        raise ValueError(f"{file} has {min(unknown)!r}. Strategies are {', '.join(strategies)}.")
    if unknown := {part for given in settings.values() for part in given} - PARTS:
        raise ValueError(f"{file} has {min(unknown)!r}. Use {' and '.join(sorted(PARTS))}.")
    for strategy, given in settings.items():
        check_runs([RunConfig(strategy=strategy, mist=True, **given)])
    return settings


def methods_of(base, strategies, settings):
    """Every strategy without and with MIST."""
    for strategy in strategies:
        given = settings.get(strategy, {})
        merged = {part: {**getattr(base, part), **given.get(part, {})} for part in PARTS}
        for mist in (False, True):
            yield replace(base, strategy=strategy, mist=mist, **merged)


def main():
    """Run the table, or show its plan with --dry-run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment(parser)
    parser.add_argument("--strategies", default=PAPER, help="names, separated by commas")
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="of each strategy")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mist_avalanche").setLevel(logging.INFO)
    try:
        if args.config:
            args = with_options_file(args, parser, sys.argv[1:])
        args.command_line = shlex.join(["python", *sys.argv])
        strategies = args.strategies.split(",")
        settings = read_settings(args.settings, strategies)
        run_and_report([*methods_of(config_of(args), strategies, settings)], args, "paper")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"paper_table.py: {error}")


if __name__ == "__main__":  # runs may be processes of their own, which read this file again
    main()
