"""Files that list images and labels: text tables, MATLAB's, and pickled arrays, read safely."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


def read_table(file: Path) -> dict[str, str]:
    """Lines ``number value``.

    Raises:
        ValueError: other lines, or none.
    """
    pairs = [line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{file} is not a table of `number value`. Get the dataset again.")
    return {number: value.strip() for number, value in pairs}


def read_matlab(file: Path) -> Any:
    """The variables of a .mat file, by name.

    Raises:
        ValueError: the file is broken.
    """
    from scipy.io import loadmat  # it takes a while, and Cars alone needs it
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(file, squeeze_me=True)
    except (MatReadError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"{file} is no whole MATLAB file ({error}). Get it again.") from error


class _Arrays(pickle.Unpickler):
    """Only what numpy arrays need; any other name in a pickle could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) in {
            ("numpy", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


def read_arrays(file: Path) -> dict[str, Any]:
    """A pickled dict of arrays, lists and strings, such as CIFAR's batches.

    Raises:
        ValueError: the file is broken, or has anything else in it.
    """
    try:
        with file.open("rb") as opened:
            content = _Arrays(opened, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError) as error:
        raise ValueError(f"{file} is not a batch of CIFAR ({error}). Get it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a batch of CIFAR. Get it again.")
    return content
