"""What results.json holds, and whether a folder has results already."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .._support.checksummed import DamagedFileError, read_checksummed
from .._support.distributed import world_size
from .._version import __version__
from .config import SCHEMA, RunConfig
from .settings import refuse_other_settings

CHECKPOINTS = "checkpoints"  # folder of a run that is not finished
_FINISHED = ("results.json", "summary.json", "report.html")  # a run, its seeds, a whole command


def check_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """ValueError where finished runs, or their tables and pictures, would be replaced unasked."""
    if any((output / name).exists() for name in _FINISHED) and not (resume or overwrite):
        raise ValueError(
            f"{output} holds a finished run. --resume (resume=True) keeps it where its settings "
            "are the same, --overwrite (overwrite=True) replaces it. Or choose another folder."
        )


def earlier_results(config: RunConfig, output: Path) -> dict[str, Any] | None:
    """results.json of an earlier run with the same settings, unless a later one was stopped."""
    file = output / "results.json"
    if any((output / CHECKPOINTS).glob("experience-*.pt")):
        return None
    try:
        earlier: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kinds = {"config": dict, "metrics": dict, "accuracy": list, "timing": dict}
        if lost := [k for k, kind in kinds.items() if not isinstance(earlier.get(k), kind)]:
            raise TypeError(f"it has no {lost[0]}")
        made = earlier["schema"], earlier["environment"]["mist_avalanche"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}). Delete it, or replace it with --overwrite."
        ) from error
    known = {k: v for k, v in earlier["config"].items() if k != "split"}
    refuse_other_settings(output, known, config.settings())
    if made != (SCHEMA, __version__):
        raise ValueError(
            f"{file} is of mist_avalanche {made[1]} (schema {made[0]}), this is {__version__} "
            f"(schema {SCHEMA}). Choose another folder, or replace it with --overwrite."
        )
    return earlier


def check_same_settings(config: RunConfig, output: Path) -> None:
    """ValueError where a folder holds a run with other settings, finished or stopped.

    Damaged checkpoints are for the run itself to report.
    """
    earlier_results(config, output)
    for file in sorted((output / CHECKPOINTS).glob("experience-*.pt"))[-1:]:
        with contextlib.suppress(DamagedFileError, KeyError, TypeError):
            saved = json.loads(read_checksummed(file)["settings"])
            refuse_other_settings(file.parent, saved, config.settings())


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = ("torch", "torchvision", "timm", "avalanche-lib", "numpy")
    return {
        "python": platform.python_version(),
        "mist_avalanche": __version__,
        **{package: version(package) for package in packages},
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }


def _processor() -> str:
    """The CPU's name, as far as the system says."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
