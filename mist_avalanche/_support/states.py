"""A model's named tensors, their bits, and the fingerprint of all of them (pure)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Model: TypeAlias = nn.Module | Mapping[str, Any]  # or its state dict
Bits = NDArray[Any]  # integers as wide as a tensor's entries
Layout = tuple[str, tuple[int, ...]]  # dtype and shape

INTEGERS = MappingProxyType({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64})
_NAMES: tuple[str, ...]
_NAMES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "bool")
_NAMES += ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
DTYPES: Mapping[str, torch.dtype] = MappingProxyType({n: getattr(torch, n) for n in _NAMES})


def tensors_of(model: Model) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, not copied; a shared one has all of its names.

    Of a state dict, all tensors. A module compiled by ``torch.compile`` has the names of the
    module within.

    Raises:
        ValueError: a tensor that is not a plain one, or has no memory of its own for each entry.
    """
    if isinstance(model, Mapping):
        found = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    else:
        module: nn.Module = getattr(model, "_orig_mod", model)
        saved = module.state_dict().keys()
        found = dict(module.named_parameters(remove_duplicate=False))
        buffers = module.named_buffers(remove_duplicate=False)
        found.update((name, buffer) for name, buffer in buffers if name in saved)
    for name, tensor in found.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{name} is {kind} on {tensor.device}: a delta cannot store it.")
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        if any(n > 1 and step == 0 for n, step in steps):
            raise ValueError(f"Entries of {name} share memory (expand). Make it contiguous().")
    return found


def names_of_each(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """All names of each tensor, by the first of them, in sorted order."""
    names: dict[Any, list[str]] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        names.setdefault(place if tensor.numel() else name, []).append(name)
    return {group[0]: group for group in names.values()}


def unique(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, in sorted order of names: a shared one has the first of its names."""
    return {name: tensors[name] for name in names_of_each(tensors)}


def layout(tensor: Tensor) -> Layout:
    """Dtype and shape."""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def shown(layout: Layout) -> str:
    """A layout in words, such as ``float32 (3, 4)``."""
    return f"{layout[0]} {layout[1]}"


def as_integers(tensor: Tensor) -> Tensor:
    """The same memory and shape, as integers of the same width."""
    return tensor.detach().view(INTEGERS[tensor.element_size()])


def bits(tensor: Tensor) -> Bits:
    """The entries (N,) as integers; of a contiguous tensor on the CPU, its own memory."""
    integers: Bits = as_integers(tensor).cpu().contiguous().reshape(-1).numpy()
    return integers


def digest(entries: Bits) -> str:
    """SHA-256 of the entries' bytes."""
    return hashlib.sha256(entries.data).hexdigest()


def fingerprint(layouts: Mapping[str, Layout], digests: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and digests of the entries, in sorted order of names."""
    rows: Iterable[Any] = ([name, *layouts[name], digests[name]] for name in sorted(layouts))
    return hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()
