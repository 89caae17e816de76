"""``mist-avalanche predict``: classify images with a finished run."""

import argparse
import json

from tabulate import tabulate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``predict``."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add("--run", required=True, metavar="DIR", help="folder of one run (a single seed)")
    add("--top", type=int, default=5, metavar="K", help="classes per image (default: 5)")
    add("--weights", metavar="FILE", help="backbone weights, if the run's file no longer exists")
    add("--device", default="auto", help="auto (default), cpu or cuda")
    add("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> None:
    """Print the most likely classes of every image."""
    from ..runs import load_run
    from ..runs.build import choose_device

    classifier = load_run(args.run, weights=args.weights, device=choose_device(args.device))
    found = dict(zip(args.images, classifier.predict(args.images, args.top), strict=True))
    if args.json:
        print(json.dumps({file: [p._asdict() for p in top] for file, top in found.items()}))
        return
    rows = [(file, p.label, f"{p.score:.3f}") for file, top in found.items() for p in top]
    print(tabulate(rows, ("image", "class", "score"), disable_numparse=True))
