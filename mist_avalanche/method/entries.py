"""Some entries of a tensor, kept in 4 bytes each where a bool mask takes a byte for every entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of a tensor by their positions.

    Args:
        shape: of the tensor.
        positions: (k,) in the flattened tensor, ascending, int32 where that reaches; None for all.
        device: where masks are made.
    """

    shape: torch.Size
    positions: Tensor | None
    device: torch.device

    @classmethod
    def of(cls, mask: Tensor) -> Entries:
        """Those where a bool mask is True."""
        if bool(mask.all()):
            return cls(mask.shape, None, mask.device)
        dtype = torch.int32 if mask.numel() < 2**31 else torch.int64
        return cls(mask.shape, mask.flatten().nonzero().squeeze(1).to(dtype), mask.device)

    def state_dict(self) -> dict[str, Any]:
        """Shape and positions; no positions are all of them."""
        everything = self.positions is None
        none = torch.empty(0, dtype=torch.int32, device=self.device)
        positions = none if self.positions is None else self.positions
        return {"shape": [*self.shape], "all": everything, "positions": positions}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Entries:
        """The entries of a :meth:`state_dict`, on the device of its positions.

        Raises:
            ValueError: a position is none of the tensor's.
        """
        shape, positions = torch.Size(state["shape"]), state["positions"].detach()
        if positions.dtype not in (torch.int32, torch.int64) or positions.ndim != 1:
            raise ValueError("positions of entries are no integers")
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < shape.numel():
            raise ValueError(f"positions of entries are beyond {shape.numel()}")
        return cls(shape, None if state["all"] else positions, positions.device)

    def __len__(self) -> int:
        return self.shape.numel() if self.positions is None else len(self.positions)

    def mask(self) -> Tensor:
        """The bool mask, made anew."""
        if self.positions is None:
            return torch.ones(self.shape, dtype=torch.bool, device=self.device)
        flat = torch.zeros(self.shape.numel(), dtype=torch.bool, device=self.device)
        flat[self.positions.long()] = True
        return flat.view(self.shape)
