"""Sparse deltas: what tuning changed in a backbone, as a small safetensors file.

For every tensor that differs, the file holds ``NAME:index``, the flat positions of the entries that
differ (int32), and ``NAME:xor``, the exclusive or of their bits before and after, as integers of
the same width. One value per entry serves both directions, exactly:

    adapted = base ^ xor        base = adapted ^ xor

The metadata hold a fingerprint of every tensor, so a delta cannot be applied to another base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .utils import atomic_write

Model: TypeAlias = nn.Module | Mapping[str, Any]

_FORMAT = "mist_avalanche delta 2"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_delta(
    adapted: Model,
    base: Model,
    path: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    license: str | None = None,
    source: str | None = None,
) -> None:
    """Write what differs between a model and its base, in parameters and saved buffers.

    Args:
        adapted: the tuned model or its state dict.
        base: the same before tuning, with equal names, shapes and dtypes.
        path: of the file, which is replaced as a whole.
        settings: how the model was made, as plain JSON data.
        license: of the base.
        source: of the base, such as a timm name or a URL.

    Raises:
        ValueError: the two have other names, shapes or dtypes, or share their memory.
    """
    after, before = _tensors_of(adapted), _tensors_of(base)
    _check_pair(after, before)
    vectors: dict[str, Tensor] = {}
    for name, tensor in after.items():
        xor = _bits(before[name]).flatten().cpu() ^ _bits(tensor).flatten().cpu()
        index = xor.nonzero().flatten()
        if len(index):
            vectors[f"{name}:index"] = index.to(torch.int32)
            vectors[f"{name}:xor"] = xor[index]
    info = {
        "changed": sum(len(vector) for vector in vectors.values()) // 2,
        "total": sum(tensor.numel() for tensor in after.values()),
        "settings": None if settings is None else dict(settings),
        "license": license,
        "source": source,
    }
    metadata = {
        "format": _FORMAT,
        "info": json.dumps(info),
        "base": json.dumps({name: _fingerprint(tensor) for name, tensor in before.items()}),
        "adapted": json.dumps({name: _fingerprint(tensor) for name, tensor in after.items()}),
    }
    with atomic_write(path) as temporary:
        save_file(vectors, temporary, metadata)


def apply_delta(model: Model, path: str | Path) -> None:
    """Turn the base into the adapted model, in place and bit for bit.

    Args:
        model: the base or its state dict. Nothing is written to it unless all of it fits.
        path: of the delta.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a delta, or it belongs to another base; the message names the
            first tensor that differs.
    """
    _change(model, path, revert=False)


def revert_delta(model: Model, path: str | Path) -> None:
    """Turn the adapted model back into its base: the inverse of :func:`apply_delta`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a delta, or the model is not the one that it leads to.
    """
    _change(model, path, revert=True)


def read_info(path: str | Path) -> dict[str, Any]:
    """What a delta says about itself.

    Returns:
        ``changed`` and ``total``, numbers of entries; ``settings``, ``license`` and ``source`` as
        given to :func:`save_delta`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a delta.
    """
    with _opened(path) as (_, metadata):
        info: dict[str, Any] = json.loads(metadata["info"])
    return info


def _change(model: Model, path: str | Path, *, revert: bool) -> None:
    """Take a model from one side of a delta to the other."""
    tensors = _tensors_of(model)
    found = {name: _fingerprint(tensor) for name, tensor in tensors.items()}
    with _opened(path) as (file, metadata):
        sides = [json.loads(metadata[side]) for side in ("base", "adapted")]
        start, end = reversed(sides) if revert else sides
        if found != start:
            if found == end:
                raise ValueError(f"{path} is already {'reverted' if revert else 'applied'}.")
            missing = found.keys() ^ start.keys()
            name = min(missing or [name for name in start if found[name] != start[name]])
            raise ValueError(
                f"{path} belongs to another model: {name!r} is {found.get(name, 'missing')}, "
                f"expected {start.get(name, 'no such tensor')}."
            )
        # Everything is computed before anything is written: tied weights, which have several names,
        # would otherwise be flipped twice.
        patches = []
        for name, tensor in tensors.items():
            if start[name] != end[name]:
                bits = _bits(tensor)
                index = file.get_tensor(f"{name}:index").to(bits.device, torch.int64)
                xor = file.get_tensor(f"{name}:xor").to(bits.device)
                patches.append((bits, index, bits.take(index) ^ xor))
    for bits, index, values in patches:
        bits.put_(index, values)


def _tensors_of(model: Model) -> dict[str, Tensor]:
    """The tensors of a state dict, in their own memory."""
    if isinstance(model, nn.Module):
        model = getattr(model, "_orig_mod", model).state_dict()  # torch.compile prefixes the names
    return {name: value.detach() for name, value in model.items() if isinstance(value, Tensor)}


def _check_pair(after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    if names := after.keys() ^ before.keys():
        raise ValueError(
            f"{min(names)!r} is not in both the adapted model and its base. Give the backbone "
            "itself on both sides, such as model[0]."
        )
    for name, tensor in after.items():
        if _layout(tensor) != _layout(before[name]):
            raise ValueError(
                f"{name!r} is {_layout(tensor)} in the adapted model and {_layout(before[name])} "
                "in its base. A delta needs equal shapes and dtypes."
            )
        if tensor.numel() and tensor.data_ptr() == before[name].data_ptr():
            raise ValueError(
                f"{name!r} of the base is the adapted model's own memory, so nothing differs. Copy "
                "the base before tuning, by copy.deepcopy(model): state_dict() does not copy."
            )


def _layout(tensor: Tensor) -> str:
    """Dtype and shape, such as ``float32 (3, 4)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _bits(tensor: Tensor) -> Tensor:
    """The same memory and shape, as integers of the same width."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def _fingerprint(tensor: Tensor) -> str:
    """Dtype, shape and a hash of the bits."""
    flat: Any = _bits(tensor).cpu().contiguous().flatten().numpy()
    return f"{_layout(tensor)} {hashlib.blake2b(flat.data, digest_size=16).hexdigest()}"


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A delta's file and its metadata."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(
                    f"{path} is not a delta of this version of mist_avalanche. Write it again with "
                    "save_delta."
                )
            yield file, metadata
    except SafetensorError as error:
        raise ValueError(f"{path} is not a delta that can be read: {error}.") from error
