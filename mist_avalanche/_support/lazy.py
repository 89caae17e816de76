"""Packages whose names come from their modules when they are asked for (PEP 562).

So a command that only parses its options, or lists files, does not import torch and Avalanche.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str, **modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``.

    Args:
        package: its name.
        modules: a public name to the module within that has it.
    """
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = getattr(import_module(f".{modules[name]}", package), name)
        return namespace[name]

    return get, lambda: sorted({*namespace, *modules})
