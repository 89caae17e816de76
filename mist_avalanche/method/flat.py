"""Parameters as parts of one flat tensor, so that one kernel reads or writes all of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: compiled kernels rely on that of separate tensors


class FlatParameters:
    """Parameters of one dtype and device as views of one tensor, and K selected entries of them.

    Each parameter keeps its strides, and those that share memory still do.

    Args:
        parameters: of one dtype and device.
        masks: of each parameter, True where an entry is selected; None for all.
        scales: of each parameter, factors on its gradient; None for 1.

    Attributes:
        entries: (K,) positions of the selected entries in the flattened parameters, one after the
            other, as in :meth:`gradients`.
        places: (K,) their positions in :meth:`join`, which differ by strides and gaps.
        scale: (K,) factors on their gradients; None if all are 1.
    """

    @torch.no_grad()
    def __init__(
        self,
        parameters: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        scales: Sequence[Tensor | None],
    ) -> None:
        self.parameters, first = parameters, parameters[0]
        starts, end = {}, 0  # of the memory of each parameter, or of several that share it
        for memory in (p.untyped_storage() for p in parameters):
            if memory.data_ptr() not in starts:
                starts[memory.data_ptr()] = end
                end += math.ceil(memory.nbytes() / ALIGNMENT) * ALIGNMENT // first.element_size()
        self._flat = first.new_zeros(end)
        self._missing = first.new_full((1,), math.nan)  # gradient of what has none
        self._reused: Tensor | None = None
        self._parts, entries, places, factors, before = [], [], [], [], 0
        for p, mask, scale in zip(parameters, masks, scales, strict=True):
            start = starts[p.untyped_storage().data_ptr()] + p.storage_offset()
            self._parts.append(self._flat.as_strided(p.shape, p.stride(), start))
            chosen = entries_of(p if mask is None else mask)
            rows = zip(torch.unravel_index(chosen, p.shape), p.stride(), strict=True)
            places.append(sum((i * stride for i, stride in rows), torch.full_like(chosen, start)))
            entries.append(chosen + before)
            factors.append(p.new_ones(len(chosen)) if scale is None else scale.take(chosen))
            before += p.numel()
        self.entries, self.places = torch.cat(entries), torch.cat(places)
        if torch.equal(self.entries, self.places):
            self.places = self.entries
        self.scale = None if all(scale is None for scale in scales) else torch.cat(factors)

    @torch.no_grad()
    def join(self) -> Tensor:
        """The flat tensor, of which the parameters are views from here on."""
        for p, part in zip(self.parameters, self._parts, strict=True):
            if p.data_ptr() != part.data_ptr():
                part.copy_(p)
                p.data = part
        return self._flat

    def gradients(self, *, reuse: bool = False) -> Tensor | None:
        """Gradients of all parameters one after the other, NaN for those that have none.

        None if no parameter has one. ``reuse`` writes over what the last such call gave.
        """
        if all(p.grad is None for p in self.parameters):
            return None
        parts = [
            self._missing.expand(p.numel()) if p.grad is None else p.grad.flatten()
            for p in self.parameters
        ]
        if not reuse:
            return torch.cat(parts)
        self._reused = torch.cat(parts, out=self._reused)  # a CPU is slow at new memory
        return self._reused

    def set_gradients(self, gradients: Tensor) -> None:
        """Let the gradients of parameters that have one be parts of what :meth:`gradients` gave."""
        parts = gradients.split_with_sizes([p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts, strict=True):
            if p.grad is not None and p.grad.is_contiguous():
                p.grad.data = part.view(p.shape)
            elif p.grad is not None:
                p.grad.copy_(part.view(p.shape))


def flatten(
    parameters: Iterable[Tensor],
    masks: Iterable[Tensor | None],
    scales: Iterable[Tensor | None],
) -> list[FlatParameters]:
    """Flat parameters by dtype and device."""
    kinds = defaultdict(list)
    for row in zip(parameters, masks, scales, strict=True):
        kinds[row[0].dtype, row[0].device].append(row)
    return [FlatParameters(*zip(*rows, strict=True)) for rows in kinds.values()]


@contextmanager
def own_memory(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, parameters may become views; afterwards they are in their own memory again."""
    own = [(p, p.data) for p in parameters]
    try:
        yield
    finally:
        move_back(own)


@torch.no_grad()
def move_back(own: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Parameters move to the memory that is given for each, with their values."""
    for p, memory in own:
        if p.data_ptr() != memory.data_ptr():
            memory.copy_(p)
            p.data = memory


def entries_of(mask: Tensor) -> Tensor:
    """Positions (K,) of the True entries of a bool mask, in the flattened tensor; else of all."""
    if mask.dtype == torch.bool:
        return mask.flatten().nonzero().squeeze(1)
    return torch.arange(mask.numel(), device=mask.device)
