"""Files and pictures of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._atomic import replacing
from .figures import accuracy_figure
from .tables import Runs


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=dict) + "\n")


def plot_accuracy(methods: Mapping[str, Runs], path: Path) -> None:
    """Accuracy on all classes seen, after each experience, as a PNG."""
    accuracy_figure(methods).savefig(path, dpi=150)
