"""``mist-avalanche predict``: the classes of images, by a finished run."""

from __future__ import annotations

import argparse
import json

from tabulate import tabulate

from ..runs.prediction import load_run
from ..runs.runner import choose_device


def execute(args: argparse.Namespace) -> None:
    """Print the likeliest classes of every image."""
    classifier = load_run(args.run, weights=args.weights, device=choose_device(args.device))
    found = dict(zip(args.images, classifier.predict(args.images, args.top), strict=True))
    if args.json:
        print(json.dumps({file: [p._asdict() for p in top] for file, top in found.items()}))
        return
    rows = [
        (file if i == 0 else "", p.label, f"{p.probability:.3f}")
        for file, top in found.items()
        for i, p in enumerate(top)
    ]
    print(tabulate(rows, ("image", "class", "probability"), disable_numparse=True))
