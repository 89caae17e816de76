"""Files and pictures of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .._support.disk import replacing
from .figures import accuracy_figure
from .summary import Runs


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=dict) + "\n")


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """``figures/NAME.png``, ``.svg`` and ``.pdf`` in a folder, each whole or not there."""
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    for suffix, metadata in undated.items():
        with (
            replacing(folder / "figures" / f"{name}.{suffix}") as temporary,
            mpl.rc_context({"svg.hashsalt": "mist_avalanche", "pdf.fonttype": 42}),
        ):
            figure.savefig(temporary, format=suffix, dpi=300, metadata=metadata)


def plot_accuracy(methods: Mapping[str, Runs], folder: Path) -> None:
    """Accuracy on all classes seen, after each experience, as ``figures/accuracy.*``."""
    save_figure(accuracy_figure(methods), folder, "accuracy")


def run_folder(path: str | Path) -> Path:
    """The folder of one finished run, of itself or its results.json.

    Raises:
        FileNotFoundError: it has no results.json; the message names a seed's folder if it has one.
    """
    folder = Path(path).parent if Path(path).name == "results.json" else Path(path)
    if not (folder / "results.json").is_file():
        seeds = sorted(file.parent for file in folder.glob("*/results.json"))
        one = f"one of its runs, such as {seeds[0]}" if seeds else "the folder of a finished run"
        if not seeds and (folder.parent / "results.json").is_file():
            one = f"{folder.parent}: it was run with one seed"
        raise FileNotFoundError(f"{folder} has no results.json. Give {one}.")
    return folder
