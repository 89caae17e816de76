"""Safetensors files and JSON from elsewhere, read without trust.

The ``safetensors`` package reads the files. Written here, as its metadata are in another order
every time, and equal contents are to make equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

_INTEGERS = ("U8", "U16", "I16", "I32", "I64")
_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {key: np.dtype(key.lower()[0] + str(int(key[1:]) // 8)) for key in _INTEGERS}
)


def strict_json(text: str) -> Any:
    """JSON without duplicate keys, NaN, infinities and integers of over 20 digits.

    Raises:
        ValueError: it is not such JSON.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_short,
        )
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"JSON with the key {key[:60]!r} twice")
        result[key] = value
    return result


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"JSON with the number {text[:20]}")
    return float(text)


def _short(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"JSON with an integer of {len(text)} digits")
    return int(text)


def shape_of(value: Any) -> tuple[int, ...]:
    """A shape from JSON; the tensor has fewer than 2⁶⁰ entries.

    Raises:
        ValueError: it is none.
    """
    if not _whole_numbers(value) or len(value) > 64 or math.prod(value) >= 1 << 60:
        raise ValueError(f"the impossible shape {str(value)[:60]}")
    return tuple(value)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 60 for n in value)


def read_vectors(path: str | Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and tensors of a safetensors file of integer vectors.

    Returns:
        The metadata, and arrays (N,) by name, writable, of the file's dtypes.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: what is wrong with it, to be put behind the file's name.
    """
    vectors = {}
    try:
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                entry = file.get_slice(name)
                dtype, shape = entry.get_dtype(), entry.get_shape()
                if dtype not in _DTYPES:
                    raise ValueError(f"tensor {name!r} has the unexpected dtype {dtype!r}")
                if len(shape) != 1:
                    raise ValueError(f"tensor {name!r} has {len(shape)} dimensions and not one")
                vectors[name] = file.get_tensor(name)
            return file.metadata() or {}, vectors
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def write_vectors(
    path: str | Path, metadata: Mapping[str, str], vectors: Mapping[str, NDArray[Any]]
) -> None:
    """Write what :func:`read_vectors` reads, one way for one content.

    Args:
        path: of the file.
        metadata: strings.
        vectors: arrays (N,) of the dtypes that are read.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    order = sorted(vectors, key=lambda name: (-vectors[name].itemsize, name))  # keeps all aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in order:
        vector = vectors[name]
        header[name] = {
            "dtype": names[vector.dtype],
            "shape": [len(vector)],
            "data_offsets": [at, at + vector.nbytes],
        }
        at += vector.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(vectors[name]).data)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, such as a checkpoint, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file {str(path)!r}. Give the path of a .safetensors file.")
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file that can be read: {error}.") from error
    return state
