"""Sparse deltas: what tuning changed in a backbone, as a small safetensors file.

For every tensor that differs, the file contains ``NAME:index``, the flat indices of the entries
that differ (int32), and ``NAME:xor``, the exclusive or of their bits before and after, as integers
of the same width. One value per entry serves both directions exactly:

    adapted = base ^ xor        base = adapted ^ xor

The metadata contain a fingerprint of every tensor, so a delta cannot be applied to another base.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .utils import atomic_write

Model: TypeAlias = nn.Module | Mapping[str, Tensor]

_FORMAT = "mist_avalanche delta 2"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_delta(adapted: Model, base: Model, path: str | Path) -> None:
    """Write the differences between a model and its base, in parameters and saved buffers.

    Args:
        adapted: the tuned model or its state dict.
        base: the model before tuning or its state dict, with the same names, shapes and dtypes.
        path: path of the file, which is replaced atomically.

    Raises:
        ValueError: names, shapes or dtypes are not the same, or nothing differs.
    """
    after, before = _tensors(adapted), _tensors(base)
    _check_same(
        {name: (tensor.shape, tensor.dtype) for name, tensor in after.items()},
        {name: (tensor.shape, tensor.dtype) for name, tensor in before.items()},
        "The adapted model and its base need the same names, shapes and dtypes",
    )
    vectors: dict[str, Tensor] = {}
    for name, tensor in after.items():
        xor = _bits(before[name]).flatten().cpu() ^ _bits(tensor).flatten().cpu()
        index = xor.nonzero().flatten()
        if len(index):
            vectors[f"{name}:index"] = index.to(torch.int32)
            vectors[f"{name}:xor"] = xor[index]
    if not vectors:
        raise ValueError(
            "The adapted model does not differ from its base. If it should, copy the base before "
            "tuning with copy.deepcopy(model): state_dict() does not copy."
        )
    metadata = {
        "format": _FORMAT,
        "base": json.dumps({name: _fingerprint(tensor) for name, tensor in before.items()}),
        "adapted": json.dumps({name: _fingerprint(tensor) for name, tensor in after.items()}),
    }
    with atomic_write(path) as temporary:
        save_file(vectors, temporary, metadata)


def apply_delta(model: Model, path: str | Path) -> None:
    """Turn the base into the adapted model, in place and bit for bit.

    Args:
        model: the base or its state dict. It is not modified unless all of the delta fits.
        path: path of the delta.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a delta, or it belongs to another base; the message names the
            first tensor that differs.
    """
    _change(model, path, start="base")


def revert_delta(model: Model, path: str | Path) -> None:
    """Turn the adapted model back into its base: the inverse of :func:`apply_delta`."""
    _change(model, path, start="adapted")


def _change(model: Model, path: str | Path, *, start: str) -> None:
    """Take a model from one side of a delta, ``"base"`` or ``"adapted"``, to the other."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a delta: {error}.") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a delta of this version. Write it again with save_delta.")
    tensors = _tensors(model)
    found = {name: _fingerprint(tensor) for name, tensor in tensors.items()}
    other, done = ("adapted", "applied") if start == "base" else ("base", "reverted")
    if metadata[other] != metadata[start] and found == json.loads(metadata[other]):
        raise ValueError(f"{path} needs its {start} model, but it is already {done} here.")
    _check_same(found, json.loads(metadata[start]), f"{path} needs its {start} model")
    patches = []  # all are computed before any is written: tied weights have several names
    for name, tensor in tensors.items():
        if f"{name}:index" in vectors:
            bits = _bits(tensor)
            index = vectors[f"{name}:index"].to(bits.device, torch.int64)
            xor = vectors[f"{name}:xor"].to(bits.device)
            patches.append((bits, index, bits.take(index) ^ xor))
    for bits, index, values in patches:
        bits.put_(index, values)


def _tensors(model: Model) -> Mapping[str, Tensor]:
    return model.state_dict() if isinstance(model, nn.Module) else model


def _check_same(found: Mapping[str, Any], expected: Mapping[str, Any], problem: str) -> None:
    """Raise a ValueError with the first tensor that is missing, unexpected or different."""
    names = found.keys() | expected.keys()
    if wrong := [name for name in names if found.get(name) != expected.get(name)]:
        raise ValueError(f"{problem}, but {min(wrong)!r} differs.")


def _bits(tensor: Tensor) -> Tensor:
    """The same memory and shape, as integers of the same width."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def _fingerprint(tensor: Tensor) -> str:
    """Dtype, shape and a hash of the bits."""
    bits: Any = _bits(tensor).cpu().contiguous().flatten().numpy()
    digest = hashlib.blake2b(bits.data, digest_size=16).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {digest}"
