"""``mist-avalanche inspect``: which parts of the backbone MIST may change in a finished run."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run to inspect."""
    parser.add_argument("run", type=Path, help="folder of one run, or its results.json")


def execute(args: argparse.Namespace) -> None:
    """Print the share of every parameter.

    Raises:
        FileNotFoundError: there is no results.json.
        ValueError: the run did not use MIST.
    """
    from ..method.selection import LayerShare, share_table
    from ..runs.results import read_results

    rows = read_results(args.run).get("mist", {}).get("layers")
    if not rows:
        raise ValueError(f"{args.run} is from a run without MISTPlugin.")
    print(share_table([LayerShare(*row) for row in rows]))
