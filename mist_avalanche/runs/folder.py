"""What the folder of a run holds: results, a checkpoint, or nothing yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils import atomic_write
from . import checkpoint
from .config import RunConfig

SCHEMA = 1  # of results.json
_FINISHED = ("results.json", "summary.json", "report.html")  # a run, its seeds, a whole command


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=1, default=dict)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_results(file: Path) -> dict[str, Any]:
    """The content of a results.json, or ValueError where it is none of this version."""
    try:
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema = results["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no results of a run.") from error
    if schema != SCHEMA:
        raise ValueError(f"{file} has schema {schema}; this version writes {SCHEMA}.")
    return results


def check_free(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """ValueError where finished runs, or their tables and figures, would be replaced unasked."""
    if any((folder / name).exists() for name in _FINISHED) and not (resume or overwrite):
        raise ValueError(
            f"{folder} holds a finished run. --resume (resume=True) keeps it where its settings "
            "are the same; --overwrite (overwrite=True) replaces it. Or choose another folder."
        )


def check_resumable(config: RunConfig, folder: Path) -> dict[str, Any] | None:
    """The results in a folder, None where there are none yet, ValueError for another run's."""
    results, saved = None, None
    if (folder / "results.json").exists():
        results = read_results(folder / "results.json")
        saved = {k: v for k, v in results["config"].items() if k != "split"}
    elif (folder / checkpoint.NAME).exists():
        saved = checkpoint.read(folder / checkpoint.NAME, mmap=True)["settings"]
    elif (folder / "checkpoints").exists():
        raise ValueError(
            f"{folder / 'checkpoints'} was written by an earlier version of mist_avalanche and "
            "cannot be resumed. Start anew with --overwrite."
        )
    if saved is not None:
        checkpoint.refuse_other_settings(folder, saved, config.settings())
    return results


def remove(folder: Path) -> None:
    """Remove what an earlier run left, so that a new one starts from the beginning."""
    for name in ("results.json", "error.txt", checkpoint.NAME):
        (folder / name).unlink(missing_ok=True)


def run_folder(path: str | Path) -> Path:
    """The folder of a finished run, from itself or its results.json, or FileNotFoundError."""
    folder = Path(path).parent if Path(path).name == "results.json" else Path(path)
    if not (folder / "results.json").is_file():
        seeds = sorted(file.parent for file in folder.glob("*/results.json"))
        one = f"one of its runs, such as {seeds[0]}" if seeds else "the folder of a finished run"
        raise FileNotFoundError(f"{folder} has no results.json. Give {one}.")
    return folder
