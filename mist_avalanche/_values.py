"""Arrays and random generators as plain data, and back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BIT_GENERATORS = {
    c.__name__: c
    for c in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}
# what a strategy may hold, and whose states are saved with the global random streams
GLOBAL_GENERATORS = {
    "random": random._inst,
    "numpy.random": np.random.mtrand._rand,
    "torch.default_generator": torch.default_generator,
}
ArrayParts = tuple[Tensor, str, list[int], list[int], int]


def is_readable(dtype: np.dtype[Any]) -> bool:
    """Whether a name of letters and digits says all of a dtype, and it has no Python objects."""
    return not dtype.hasobject and np.dtype(dtype.str) == dtype


def parts_of_arrays(arrays: Sequence[NDArray[Any]]) -> list[ArrayParts]:
    """Bytes, dtype, shape, strides and offset of arrays; those that share memory share bytes."""
    owners = [_owner(array) for array in arrays]
    ids = [id(owner) for owner in owners]
    shared: dict[int, Tensor] = {}
    parts = []
    for array, owner in zip(arrays, owners, strict=True):
        start = 0
        if ids.count(id(owner)) > 1 and owner.flags.forc:
            if id(owner) not in shared:
                shared[id(owner)] = _bytes(owner)
            bits = shared[id(owner)]
            start = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        else:
            array = array.copy("K")
            bits = _bytes(array)
        parts.append((bits, array.dtype.str, [*array.shape], [*array.strides], start))
    return parts


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    """The array that another one is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _bytes(array: NDArray[Any]) -> Tensor:
    """The memory of an array without gaps."""
    return torch.from_numpy(array.ravel("K").view(np.uint8).copy())


def array_of(bits: Tensor, dtype: str, shape: list[int], strides: list[int], start: int) -> Any:
    """The array of :func:`parts_of_arrays`.

    Raises:
        ValueError: it would reach beyond the bytes.
    """
    plain = bits.device.type == "cpu" and bits.layout == torch.strided and bits.is_contiguous()
    if not plain or bits.dtype != torch.uint8 or bits.ndim != 1:
        raise ValueError("the bytes of an array are none")
    found = np.dtype(dtype)
    if not is_readable(found):
        raise ValueError(f"arrays of {dtype[:20]} are not read")
    return np.ndarray(tuple(shape), found, bits.numpy(), start, tuple(strides))


def state_of(generator: Any) -> tuple[str, Any] | None:
    """Kind and state of a random generator; None for what is none."""
    kind = type(generator)
    if kind is random.Random:
        return "Random", generator.getstate()
    if kind is np.random.RandomState:
        return "RandomState", plain_state(generator.get_state(legacy=False))
    if kind is np.random.Generator and type(generator.bit_generator).__name__ in _BIT_GENERATORS:
        return "Generator", plain_state(generator.bit_generator.state)
    return None


def generator_of(kind: str, state: Any, live: Any = None) -> Any:
    """The random generator of :func:`state_of`; the live one, where it is of that kind.

    Raises:
        ValueError: there is no such kind; its state is impossible.
    """
    if kind == "Random":
        generator = live if type(live) is random.Random else random.Random()
        generator.setstate(state)
        return generator
    if kind not in ("RandomState", "Generator"):
        raise ValueError(f"there is no random generator {kind[:20]!r}")
    check_positions(state)
    if kind == "RandomState":
        made = live if type(live) is np.random.RandomState else np.random.RandomState()
        made.set_state(state)
        return made
    if type(live) is not np.random.Generator or _name_of(live) != state["bit_generator"]:
        live = np.random.Generator(_BIT_GENERATORS[state["bit_generator"]]())
    live.bit_generator.state = state
    return live


def check_positions(state: Any) -> None:
    """ValueError where one of numpy's states would have it read beyond its numbers."""
    if not isinstance(state, dict) or not isinstance(state["state"], dict):
        raise ValueError("a random generator has no state")
    inner = state["state"]
    if state["bit_generator"] == "MT19937":
        if not 0 <= inner["pos"] <= len(inner["key"]) == 624:
            raise ValueError("a random generator is at an impossible position")
    elif state["bit_generator"] == "Philox" and not 0 <= state["buffer_pos"] <= 4:
        raise ValueError("a random generator is at an impossible position")


def _name_of(generator: np.random.Generator) -> str:
    return type(generator.bit_generator).__name__


def plain_state(state: Any) -> Any:
    """A state with lists for arrays."""
    if isinstance(state, dict):
        return {key: plain_state(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state
