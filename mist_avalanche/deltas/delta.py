"""Sparse weight deltas: what tuning changed in a backbone, as a file of a tenth of its size.

A delta holds, for the entries that differ from the base bit by bit, the exclusive or of their bits
before and after: adapted = base ⊕ delta and base = adapted ⊕ delta. So one value an entry serves
both directions, and both are exact, -0.0 and the payloads of NaN included. It is bound to its base
by the fingerprint of all names, dtypes, shapes and bits.

Non-persistent buffers, which no state dict has, are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .._support.safetensors import read_state
from .._support.states import (
    Model,
    bits,
    digest,
    fingerprint,
    layout,
    names_of_each,
    shown,
    tensors_of,
    unique,
)
from .delta_set import DeltaSet as DeltaSet
from .file import Change as Change
from .file import Delta as Delta
from .file import read_delta as read_delta
from .file import write
from .patches import digests_of, patches_of, write_patches


def save_delta(
    model: Model,
    base: Model | str | Path,
    path: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    license: str | None = None,
    source: str | None = None,
) -> Delta:
    """Write what differs between a model and its base, in parameters and buffers.

    A tensor with several names is stored once. The file is written whole or not at all.

    Args:
        model: the adapted model, or its state dict.
        base: what it was before, with the same names, dtypes and shapes: a model, a state dict, or
            the path of a .safetensors file.
        path: of the delta.
        settings: how it was made, such as the arguments of a run; what JSON can say.
        license: of the base.
        source: of the base, such as a name of timm or a URL.

    Returns:
        What was written.

    Raises:
        ValueError: the names, dtypes or shapes differ; the base is the model's own memory; the
            settings are not JSON.
        FileNotFoundError: the base is a path that does not exist.
        OSError: the disk is full, the folder cannot be written to.
    """
    adapted = tensors_of(model)
    given = tensors_of(read_state(base) if isinstance(base, str | Path) else base)
    before = _paired(adapted, given)
    layouts = {name: layout(tensor) for name, tensor in unique(adapted).items()}
    changes = {}
    digests_before, digests_after = {}, {}
    for name in layouts:
        old, new = bits(before[name]), bits(adapted[name])
        digests_before[name] = digests_after[name] = digest(old)
        xor = old ^ new
        index = np.flatnonzero(xor)
        if len(index):
            digests_after[name] = digest(new)
            whole = len(index) == len(xor)
            changes[name] = Change(None, xor) if whole else Change(index, xor[index])
    delta = Delta(
        layouts=layouts,
        base=fingerprint(layouts, digests_before),
        adapted=fingerprint(layouts, digests_after),
        changes=changes,
        settings=settings,
        license=license,
        source=source,
    )
    write(delta, path)
    return delta


def _paired(adapted: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's tensors by the first name of each of the adapted ones, after checks that they fit.

    The base may have a shared tensor under some of its names only, as files have.
    """
    groups, apart = names_of_each(adapted), names_of_each(base)
    lost = [names[0] for names in groups.values() if not base.keys() & {*names}]
    lost += [name for name in base if name not in adapted]
    if lost:
        sides = ("base", "model") if lost[0] in adapted else ("model", "base")
        raise ValueError(
            f"The {sides[0]} has no {lost[0]!r}, which the {sides[1]} has. Give the backbone "
            "itself on both sides, such as model[0], and not what is built around it."
        )
    before = {}
    for name, names in groups.items():
        old = [base[alias] for alias in names if alias in base]
        before[name] = old[0]
        if layout(old[0]) != layout(adapted[name]):
            raise ValueError(
                f"{name} is {shown(layout(adapted[name]))} in the model and "
                f"{shown(layout(old[0]))} in the base. A delta needs equal shapes and dtypes."
            )
        if name in base and name not in apart:
            raise ValueError(f"The base shares {name} with another name, and the model does not.")
        if any(not np.array_equal(bits(other), bits(old[0])) for other in old[1:]):
            raise ValueError(f"The model shares {', '.join(names)}; in the base they differ.")
        if old[0].numel() and old[0].data_ptr() == adapted[name].data_ptr():
            raise ValueError(
                f"{name} of the base is the model's own memory, so that nothing differs. Copy the "
                "base before tuning: copy.deepcopy(model); state_dict() does not copy."
            )
    return before


def apply_delta(model: Model, path: str | Path) -> Delta:
    """Make the adapted model of the base, in place and bit by bit.

    Everything is checked before the first entry is written, the fingerprint of the result
    included. Seconds: about those of hashing the model twice.

    Args:
        model: the base, or its state dict.
        path: of the delta.

    Returns:
        What the file says.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not a delta, it is of another base, or it is applied already. The model
            is as it was.
    """
    return _change_model(model, path, revert=False)


def revert_delta(model: Model, path: str | Path) -> Delta:
    """Make the base of the adapted model, in place and bit by bit; the inverse of `apply_delta`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not a delta, or the model is not the one it leads to. The model is as it
            was.
    """
    return _change_model(model, path, revert=True)


def _change_model(model: Model, path: str | Path, *, revert: bool) -> Delta:
    delta = read_delta(path)
    tensors = unique(tensors_of(model))
    patches = patches_of(delta, path, tensors, digests_of(tensors), revert=revert)
    write_patches(tensors, patches)
    return delta
