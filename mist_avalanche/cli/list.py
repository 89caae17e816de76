"""``mist-avalanche list``: lists the strategies."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are no options."""


def execute(args: argparse.Namespace) -> None:
    """Print a table."""
    from tabulate import tabulate

    from ..strategies.registry import overview

    print(tabulate(overview(), headers="keys", disable_numparse=True))
