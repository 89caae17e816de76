"""The six hosts of the paper, each without and with MIST, on one benchmark: a table of twelve.

Options are those of `mist-avalanche compare` without --strategies, and --settings FILE.json with
arguments of each host, under the names that RunConfig has for them:

    {"slca": {"strategy_args": {"train_epochs": 50}, "mist_args": {"lr": 1e-4}}}
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from mist_avalanche.cli.experiment import run_and_report
from mist_avalanche.cli.options import add_experiment, config_of
from mist_avalanche.runs import RunConfig
from mist_avalanche.runs.checks import check_runs

HOSTS = ("simplecil", "ranpac", "l2p", "dualprompt", "ease", "slca")


def settings_of_hosts(file):
    """Arguments by host, checked."""
    settings = json.loads(file.read_text()) if file else {}
    for host, given in settings.items():
        if host not in HOSTS:
            raise ValueError(f"{file} has {host!r}. The hosts are {', '.join(HOSTS)}.")
        if unknown := given.keys() - {"strategy_args", "mist_args"}:
            raise ValueError(f"{file} has {min(unknown)!r}. Use strategy_args and mist_args.")
        check_runs([RunConfig(strategy=host, mist=True, **given)])
    return settings


def methods_of(base, settings):
    """Every host without and with MIST."""
    for host in HOSTS:
        given = {
            name: {**getattr(base, name), **settings.get(host, {}).get(name, {})}
            for name in ("strategy_args", "mist_args")
        }
        for mist in (False, True):
            yield replace(base, strategy=host, mist=mist, **given)


def main():
    """Run the table, or show its plan with --dry-run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment(parser)
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="arguments of each host")
    args = parser.parse_args()
    args.command_line = shlex.join(["python", *sys.argv])
    try:
        methods = methods_of(config_of(args), settings_of_hosts(args.settings))
        run_and_report([*methods], args, "paper")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"paper_table.py: {error}")


if __name__ == "__main__":  # runs may be processes of their own, which read this file again
    main()
