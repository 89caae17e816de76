"""Safetensors files and JSON from elsewhere, read without trust.

Nothing in a file is executed, and nothing is allocated that the file's own size does not warrant.
Duplicate keys, numbers that are not finite and bytes that belong to no tensor are errors, which
the ``safetensors`` package passes over in part.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_LONGEST_HEADER = 1 << 24  # bytes; 100 000 tensors
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
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"a header of {length} bytes does not fit into {size} bytes")
        if length > _LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes is longer than {_LONGEST_HEADER}")
        header = strict_json(file.read(length).decode())
        if not isinstance(header, dict):
            raise ValueError("the header is not a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
            raise ValueError("its metadata are not strings")
        places = _places(header, size - 8 - length)
        data = bytearray(size - 8 - length)
        if file.readinto(data) != len(data):
            raise ValueError("it became shorter while it was read")
    return metadata, {
        name: np.require(np.frombuffer(data, dtype, count, offset), requirements=["A", "W"])
        for name, (dtype, count, offset) in places.items()
    }


def write_vectors(
    path: str | Path, metadata: Mapping[str, str], vectors: Mapping[str, NDArray[Any]]
) -> None:
    """Write what :func:`read_vectors` reads; equal contents make equal bytes.

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


def _places(header: Mapping[str, Any], size: int) -> dict[str, tuple[np.dtype[Any], int, int]]:
    """Dtype, number of entries and first byte of every tensor; together they cover the data."""
    places, spans = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name!r} is not described by dtype, shape and data_offsets")
        dtype, offsets = entry["dtype"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"tensor {name!r} has the unexpected dtype {str(dtype)[:60]!r}")
        shape = shape_of(entry["shape"])
        if len(shape) != 1:
            raise ValueError(f"tensor {name!r} has {len(shape)} dimensions and not one")
        if not _whole_numbers(offsets) or len(offsets) != 2:
            raise ValueError(f"tensor {name!r} has the offsets {str(offsets)[:60]}")
        begin, end = offsets
        if end - begin != shape[0] * _DTYPES[dtype].itemsize or end > size:
            raise ValueError(
                f"tensor {name!r} of {shape[0]} {dtype} is at bytes {begin} to {end} of {size}"
            )
        places[name] = (_DTYPES[dtype], shape[0], begin)
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError(f"its tensors overlap or leave a gap at byte {min(at, begin)}")
        at = end
    if at != size:
        raise ValueError(f"{size - at} bytes at its end belong to no tensor")
    return places


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
