"""What a delta writes into a model: checked in full first, then written, or undone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._support.states import as_integers, bits, digest, fingerprint, layout, shown
from .file import Delta


@dataclass(frozen=True)
class Patch:
    """What to write into one tensor, and what to write to undo it.

    Args:
        name: of the tensor.
        index: (K,) entries, in the order of ``flatten()``; None: all.
        before: (K,) their bits in the base.
        after: (K,) their bits in the adapted model.
    """

    name: str
    index: Tensor | None
    before: Tensor
    after: Tensor

    def inverse(self) -> Patch:
        """The patch that undoes this one."""
        return replace(self, before=self.after, after=self.before)

    def to(self, device: torch.device) -> Patch:
        """The same on another device."""
        index = None if self.index is None else self.index.to(device)
        return Patch(self.name, index, self.before.to(device), self.after.to(device))


def digests_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's entries."""
    return {name: digest(bits(tensor)) for name, tensor in tensors.items()}


def patches_of(
    delta: Delta,
    path: str | Path,
    tensors: Mapping[str, Tensor],
    digests: Mapping[str, str],
    *,
    revert: bool = False,
) -> list[Patch]:
    """What applying (or reverting) a delta writes, after all checks. It writes nothing itself.

    Args:
        delta: what ``path`` says.
        path: for messages.
        tensors: each of the model's tensors once.
        digests: of the tensors' entries.
        revert: the way from the adapted model to the base.

    Raises:
        ValueError: the model is not what the delta starts from, or the delta does not lead to what
            it says.
    """
    _check_layouts(delta, path, tensors)
    current = fingerprint(delta.layouts, digests)
    start, end = (delta.adapted, delta.base) if revert else (delta.base, delta.adapted)
    if current != start:
        if current == end:
            state, other = ("not applied", "apply") if revert else ("applied already", "revert")
            raise ValueError(
                f"{path} is {state}: the model is what it would become. {other}_delta "
                "goes the other way."
            )
        raise ValueError(
            f"{path} is a delta of another {'model' if revert else 'base'}. It needs the "
            f"fingerprint {start}, the model has {current}. Give the very weights that it was made "
            f"from{_said(delta)}, and revert other deltas first."
        )
    patches, then = [], dict(digests)
    for name, change in delta.changes.items():
        entries = bits(tensors[name])
        where: Any = slice(None) if change.index is None else change.index
        before = entries[where].copy()
        after = before ^ change.xor
        moved = entries.copy()
        moved[where] = after
        then[name] = digest(moved)
        index = None if change.index is None else torch.from_numpy(change.index)
        patch = Patch(name, index, torch.from_numpy(before), torch.from_numpy(after))
        patches.append(patch.to(tensors[name].device))
    if fingerprint(delta.layouts, then) != end:
        raise ValueError(
            f"{path} is damaged: it does not lead to the fingerprint {end} that it states. Get the "
            "file again."
        )
    return patches


def _said(delta: Delta) -> str:
    return f" ({delta.source!r})" if delta.source else ""


def _check_layouts(delta: Delta, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    for name in (*delta.layouts, *tensors):
        if name not in tensors or name not in delta.layouts:
            side = "has no" if name not in tensors else "has"
            raise ValueError(
                f"{path} is a delta of another base: the model {side} {name!r}. Give the backbone "
                f"itself{_said(delta)}, such as model[0], and not what is built around it."
            )
        if layout(tensors[name]) != delta.layouts[name]:
            raise ValueError(
                f"{path} is a delta of another base: its {name!r} is {shown(delta.layouts[name])}, "
                f"the model's is {shown(layout(tensors[name]))}."
            )


@torch.no_grad()
def write_patches(tensors: Mapping[str, Tensor], patches: Iterable[Patch]) -> None:
    """Write patches in turn, in place; where that fails or is interrupted, it is undone.

    Args:
        tensors: each of the model's tensors once.
        patches: of these tensors.
    """
    done: list[Patch] = []
    try:
        for patch in patches:
            done.append(patch)
            _put(tensors[patch.name], patch.index, patch.after)
    except BaseException:
        for patch in reversed(done):
            _put(tensors[patch.name], patch.index, patch.before)
        raise


def _put(tensor: Tensor, index: Tensor | None, values: Tensor) -> None:
    if index is None:
        as_integers(tensor).copy_(values.view(tensor.shape))
    else:
        as_integers(tensor).put_(index, values)  # in the order of flatten(), whatever the strides
