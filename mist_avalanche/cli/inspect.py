"""``mist-avalanche inspect``: where MIST may move the backbone, of one run."""

from __future__ import annotations

import argparse
import json

from ..method.layers_figure import selection_figure
from ..method.selection import LayerShare, share_table
from ..reports import report


def execute(args: argparse.Namespace) -> None:
    """The shares as text, and ``layers.png`` beside the results."""
    file = report.run_folder(args.results) / "results.json"
    found = json.loads(file.read_text())
    rows = found.get("mist", {}).get("layers")
    if not rows:
        raise ValueError(f"{file} is of a run without MISTPlugin, or of an earlier version.")
    print(share_table([LayerShare(*row) for row in rows]))
    picture = file.with_name("layers.png")
    selection_figure(rows).savefig(picture, dpi=150)
    print(f"Picture: {picture}")
