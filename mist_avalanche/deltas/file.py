"""The file of a sparse delta: what is in it, reading it without trust, writing it whole.

A safetensors file. For every tensor that differs it has ``NAME:xor``, the exclusive or of the bits
before and after of the entries that differ, as integers of their width, and ``NAME:gaps`` or
``NAME:bitmap`` which says what entries these are; without one of the two they are all. Its metadata
are strings: format and its version, the fingerprints of both sides, the layouts of all tensors as
JSON, and where the base comes from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._support.disk import replacing
from .._support.safetensors import read_vectors, shape_of, strict_json, write_vectors
from .._support.states import DTYPES, Bits, Layout, shown
from .._version import __version__
from . import index_codes as index_codes
from .index_codes import Index

_FORMAT, _VERSION = "mist-avalanche delta", "1"
_XOR = "xor"


@dataclass(frozen=True)
class Change:
    """What differs in one tensor.

    Args:
        index: (K,) the entries, ascending; None: all of them.
        xor: (K,) the exclusive or of their bits before and after.
    """

    index: Index | None
    xor: Bits


@dataclass(frozen=True)
class Delta:
    """What a delta's file says.

    Args:
        layouts: dtype and shape of every tensor of the base, by name.
        base: fingerprint of the base.
        adapted: fingerprint of what it becomes.
        changes: what differs, by name; names without an entry are equal.
        settings: whatever was given to describe how it was made; None: nothing was.
        license: of the base; None: not said.
        source: of the base; None: not said.
        version: of the package that wrote it.
    """

    layouts: Mapping[str, Layout]
    base: str
    adapted: str
    changes: Mapping[str, Change] = field(repr=False)
    settings: Mapping[str, Any] | None = None
    license: str | None = None
    source: str | None = None
    version: str = __version__

    @property
    def changed(self) -> int:
        """Number of entries that differ."""
        return sum(len(change.xor) for change in self.changes.values())

    @property
    def total(self) -> int:
        """Number of entries of the base, buffers included."""
        return sum(math.prod(shape) for _, shape in self.layouts.values())


def write(delta: Delta, path: str | Path) -> None:
    """Write a delta's file whole or not at all.

    Raises:
        ValueError: the settings are not JSON.
        OSError: the disk is full, the folder cannot be written to.
    """
    metadata = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "package_version": delta.version,
        "base": delta.base,
        "adapted": delta.adapted,
        "layouts": json.dumps(delta.layouts, separators=(",", ":")),
    }
    if delta.settings is not None:
        metadata["settings"] = _settings_text(delta.settings)
    given = {"license": delta.license, "source": delta.source}
    metadata.update((key, text) for key, text in given.items() if text is not None)
    vectors: dict[str, NDArray[Any]] = {}
    for name, change in delta.changes.items():
        vectors |= _vectors(name, change, math.prod(delta.layouts[name][1]))
    with replacing(path) as temporary:
        write_vectors(temporary, metadata, vectors)


def _settings_text(settings: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(settings, allow_nan=False, default=dict)
        if not isinstance(strict_json(text), dict):
            raise ValueError("no object")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected `settings` to be a mapping of what JSON can say ({error})."
        ) from error
    return text


def _vectors(name: str, change: Change, n: int) -> dict[str, NDArray[Any]]:
    """A change of a tensor of n entries in its shorter form: all entries, or some and an index."""
    if change.index is None:
        return {f"{name}:{_XOR}": change.xor}
    coding, codes = index_codes.encode(change.index, n)
    if change.xor.nbytes + codes.nbytes < n * change.xor.itemsize:
        return {f"{name}:{_XOR}": change.xor, f"{name}:{coding}": codes}
    whole = np.zeros(n, dtype=change.xor.dtype)
    whole[change.index] = change.xor
    return {f"{name}:{_XOR}": whole}


def read_delta(path: str | Path) -> Delta:
    """What a delta's file says, wherever it comes from: nothing in it is executed.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not a delta, it is of another format version, or damaged; the message
            names the file and what is wrong.
    """
    try:
        return _checked(*read_vectors(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a delta that can be read: {error}.") from error


def _checked(metadata: Mapping[str, str], vectors: Mapping[str, NDArray[Any]]) -> Delta:
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"its metadata do not say that it is a {_FORMAT}")
    if metadata.get("format_version") != _VERSION:
        raise ValueError(
            f"it has format version {metadata.get('format_version', '')[:20]!r}, and this is "
            f"mist_avalanche {__version__}, which reads version {_VERSION}"
        )
    for key in ("base", "adapted"):
        if not re.fullmatch("[0-9a-f]{64}", metadata.get(key, "")):
            raise ValueError(f"its metadata have no fingerprint {key!r}")
    layouts = _layouts(strict_json(metadata.get("layouts", "null")))
    settings = strict_json(metadata["settings"]) if "settings" in metadata else None
    if not isinstance(settings, dict | None):
        raise ValueError("its settings are not a JSON object")
    return Delta(
        layouts=layouts,
        base=metadata["base"],
        adapted=metadata["adapted"],
        changes=_changes(layouts, vectors),
        settings=settings,
        license=metadata.get("license"),
        source=metadata.get("source"),
        version=metadata.get("package_version", "unknown"),
    )


def _layouts(given: Any) -> dict[str, Layout]:
    if not isinstance(given, dict):
        raise ValueError("its metadata do not describe the base's tensors")
    layouts: dict[str, Layout] = {}
    for name, value in given.items():
        if not isinstance(value, list) or len(value) != 2 or value[0] not in [*DTYPES]:
            raise ValueError(f"{name!r} has no dtype that is known")
        layouts[name] = (value[0], shape_of(value[1]))
    return layouts


def _changes(
    layouts: Mapping[str, Layout], vectors: Mapping[str, NDArray[Any]]
) -> dict[str, Change]:
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for key, vector in vectors.items():
        name, _, part = key.rpartition(":")
        if name not in layouts:
            raise ValueError(f"it changes {name!r}, which the base has not")
        parts.setdefault(name, {})[part] = vector
    changes = {}
    for name, found in parts.items():
        try:
            changes[name] = _change(found, layouts[name])
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from error
    return changes


def _change(found: dict[str, NDArray[Any]], layout: Layout) -> Change:
    n = math.prod(layout[1])
    xor = found.pop(_XOR, None)
    if xor is None:
        raise ValueError("has no values")
    if xor.dtype.itemsize != DTYPES[layout[0]].itemsize or xor.dtype == np.uint16:
        raise ValueError(f"is {shown(layout)} and has values of dtype {xor.dtype}")
    if len(found) > 1:
        raise ValueError(f"has several codings, {', '.join(map(repr, found))}")
    for coding, codes in found.items():
        return Change(index_codes.decode(coding, codes, len(xor), n), xor)
    if len(xor) != n:
        raise ValueError(f"has {len(xor)} values for {n} entries, and no index")
    moved = np.flatnonzero(xor)
    return Change(None, xor) if len(moved) == n else Change(moved, xor[moved])
