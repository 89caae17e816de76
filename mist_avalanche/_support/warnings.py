"""Warnings of the libraries below."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

_NO_SOLVER = "no QP solver"  # of qpsolvers, which Avalanche imports for GEM
_OPTION = f"ignore:{_NO_SOLVER}:UserWarning"


def hide_avalanche_warnings() -> None:
    """Show no warnings that come from Avalanche's own files, here and in new processes.

    A filter does not do: its ``deprecated`` decorator puts another in front at every call.
    """
    show = warnings.showwarning

    def showwarning(message: Any, category: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        if "avalanche" not in Path(filename).parts:
            show(message, category, filename, *args, **kwargs)

    warnings.showwarning = showwarning
    warnings.filterwarnings("ignore", message=_NO_SOLVER)
    if _OPTION not in sys.warnoptions:  # which new processes are given
        sys.warnoptions.append(_OPTION)


def callers_level() -> int:
    """The ``stacklevel`` of the line outside of this package and Avalanche that led here.

    Avalanche wraps constructors, so that their number of frames is not known.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _room_of(frame) in ("mist_avalanche", "avalanche"):
        level, frame = level + 1, frame.f_back
    return level


def _room_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]
