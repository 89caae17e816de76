"""Parameters as views of one vector, so that one kernel reads or writes all of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class FlatParameters:
    """Parameters of one dtype and device as one vector (N,); a single one keeps its shape.

    Attributes: ``entries`` (K,), selected positions; ``scale`` (K,), factors on their gradients.
    """

    def __init__(self, rows: list[Any]) -> None:
        masks = [torch.ones_like(p).bool() if mask is None else mask for p, mask, _ in rows]
        scales = [torch.ones_like(p) if scale is None else scale for p, _, scale in rows]
        self.entries = concatenate(masks).nonzero().squeeze(1)
        self.scale = concatenate(scales).take(self.entries)
        self.parameters = [p for p, _, _ in rows]
        self._missing = self.parameters[0].new_full((1,), math.nan)
        self._vector: Tensor = self._missing
        self._addresses: list[int] = []
        self._read: Tensor | None = None  # buffer for gradients, reused because allocation is slow

    def weights(self) -> Tensor:
        """The vector; from now on the parameters are views of it."""
        if self._addresses != [p.data_ptr() for p in self.parameters]:
            self._vector = join(self.parameters)
            self._addresses = [p.data_ptr() for p in self.parameters]
        return self._vector

    def gradients(self, *, joined: bool) -> Tensor | None:
        """Vector of the gradients (NaN if missing), or None; ``joined`` makes them views of it."""
        grads = [
            self._missing.expand(p.shape) if p.grad is None else p.grad for p in self.parameters
        ]
        if all(p.grad is None for p in self.parameters):
            return None
        if joined:
            return join(grads)
        self._read = concatenate(grads, out=self._read)
        return self._read


def concatenate(tensors: list[Tensor], out: Tensor | None = None) -> Tensor:
    """Concatenate tensors, each padded to a multiple of 16 entries to keep the next one aligned."""
    parts = [t.detach().flatten() for t in tensors]
    return torch.cat([F.pad(p, (0, -len(p) % 16)) if len(p) % 16 else p for p in parts], out=out)


def join(tensors: list[Tensor]) -> Tensor:
    """Make tensors views of one vector and return it; a single tensor is returned as it is."""
    if len(tensors) == 1:
        return tensors[0].detach()
    vector = concatenate(tensors)
    parts = vector.split_with_sizes([t.numel() + -t.numel() % 16 for t in tensors])
    for t, part in zip(tensors, parts, strict=True):
        t.data = part[: t.numel()].view(t.shape)
    return vector


def flatten(rows: Iterable[Any]) -> list[FlatParameters]:
    """Flat parameters of rows (parameter, mask or None, factors on its gradient or None).

    A parameter that overlaps others in memory, or is not contiguous, gets a vector of its own.
    """
    rows, groups = [*rows], defaultdict(list)
    used: Counter[int] = Counter()  # bytes of each storage
    for p, _, _ in rows:
        used[p.untyped_storage().data_ptr()] += p.nbytes
    for row in rows:
        p, storage = row[0], row[0].untyped_storage()
        alone = not p.is_contiguous() or used[storage.data_ptr()] > storage.nbytes()
        groups[id(p) if alone else (p.dtype, p.device)].append(row)
    return [FlatParameters(group) for group in groups.values()]


@contextmanager
def own_memory(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Context after which parameters that became views inside return to their own memory."""
    own = [(p, p.data) for p in parameters]
    try:
        yield
    finally:
        for p, memory in own:
            p.data = memory.copy_(p.data)
