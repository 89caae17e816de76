"""``mist-avalanche data list | get | check``."""

from __future__ import annotations

import argparse

from ..benchmarks.storage import datasets


def execute(args: argparse.Namespace) -> int:
    """Run the action that was parsed; 1 where a check found something."""
    if args.action == "list":
        print(datasets.listing(args.root))
        return 0
    if args.action == "get":
        print(datasets.get(args.name, args.root, progress=not args.quiet))
        return 0
    found = datasets.check(args.name, args.root, args.split, progress=not args.quiet)
    print(found)
    return 0 if found.sound else 1
