"""What a run that goes on is compared by with the run that was stopped."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class OtherSettingsError(ValueError):
    """An earlier run had other settings."""


def computed_by() -> dict[str, Any]:
    """What a number's last bits depend on."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def warn_of_other(saved: Mapping[str, Any]) -> None:
    """A warning where numbers may differ in their last bits from those of the saved run."""
    different = {k: v for k, v in computed_by().items() if saved[k] != v}
    if different:
        was = ", ".join(f"{k} {saved[k]}, now {v}" for k, v in different.items())
        warnings.warn(
            f"The run was computed with {was}: it goes on with numbers that may differ in their "
            "last bits.",
            stacklevel=4,
        )


def refuse_other_settings(
    folder: Path, saved: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None
) -> None:
    """An error that names what differs between the settings of an earlier run and of this one."""
    there = _leaves(saved or {})
    here = _leaves(json.loads(json.dumps(wanted, default=dict)) or {})
    different = [
        f"{name}: {there.get(name, 'nothing')!s:.60} there, {here.get(name, 'nothing')!s:.60} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if different:
        more = f" and {len(different) - 6} more" if len(different) > 6 else ""
        raise OtherSettingsError(
            f"{folder} holds a run with other settings ({'; '.join(different[:6])}{more}). Choose "
            "another folder (--output), or start anew (--overwrite, without --resume)."
        )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings as ``outer.inner``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.update(_leaves(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
