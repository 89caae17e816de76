"""Warnings of the libraries below."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def hide_avalanche_warnings() -> None:
    """Show no warnings that come from Avalanche's own files.

    A filter does not do: its ``deprecated`` decorator puts another in front at every call.
    """
    show = warnings.showwarning

    def showwarning(message: Any, category: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        if "avalanche" not in Path(filename).parts:
            show(message, category, filename, *args, **kwargs)

    warnings.showwarning = showwarning
