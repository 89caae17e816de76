"""``mist-avalanche data list | get | check``."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dataset-root", metavar="DIR", help="data folder (default: Avalanche's)")
    common.add_argument("--quiet", action="store_true", help="show no progress bars")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", parents=[common], help="list the datasets and their copies")
    get = actions.add_parser("get", parents=[common], help="download from the official source")
    get.add_argument("name", help="as `data list` shows it")
    check = actions.add_parser("check", parents=[common], help="read every image of a copy")
    check.add_argument("name", help="as `data list` shows it, or folder")
    check.add_argument("--split", help="official, processed or hash (default: the first found)")


def execute(args: argparse.Namespace) -> int:
    """Run the action; the exit code is 1 if a check found a problem."""
    from ..benchmarks import data  # not at the top: --help needs no torch

    if args.action == "list":
        print(data.listing(args.dataset_root))
        return 0
    if args.action == "get":
        print(data.get(args.name, args.dataset_root, progress=not args.quiet))
        return 0
    report, is_ok = data.check(args.name, args.dataset_root, args.split, progress=not args.quiet)
    print(report)
    return 0 if is_ok else 1
