"""What earlier experiences leave for later ones: decayed and protected entries (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from .gradients import SelectedEntries
from .selection import Selection, top_entries


class SelectionHistory:
    """Counts how often each entry was selected, and remembers which are frozen for good.

    Tensors that are always selected take part in neither, as in the reference code.

    Attributes:
        overlap: name to the number (uint8) of earlier selections of every entry.
        protected: name to the entries (bool) that move no more.
    """

    def __init__(self) -> None:
        self.overlap: dict[str, Tensor] = {}
        self.protected: dict[str, Tensor] = {}

    def record(self, selection: Selection) -> None:
        """Count a selection that a new one takes the place of."""
        for name in selection.masks.keys() - selection.always:
            mask = selection.masks[name]
            self.overlap[name] = _shaped(self.overlap.get(name), mask, torch.uint8) + mask

    def protect(self, scores: Mapping[str, Tensor], rate: float, always: Collection[str]) -> None:
        """Freeze the ``rate`` most sensitive entries of each tensor, the maximum at the least."""
        for name, score in scores.items():
            if name not in always:
                top = top_entries(score, rate)
                self.protected[name] = _shaped(self.protected.get(name), top, torch.bool) | top

    def movable(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks without what is protected."""
        return {
            name: mask & ~_shaped(self.protected.get(name), mask, torch.bool)
            for name, mask in masks.items()
        }

    def decay(self, entries: SelectedEntries, factor: float) -> Tensor | None:
        """(K,) ``factor`` to the number of earlier selections; None where nothing is scaled."""
        if not self.overlap or factor == 1:
            return None
        counts = entries.gather(
            [
                _shaped(self.overlap.get(name), p, torch.uint8)
                for name, p in zip(entries.names, entries.parameters, strict=True)
            ]
        )
        return factor ** counts.to(torch.float64)


def _shaped(earlier: Tensor | None, like: Tensor, dtype: torch.dtype) -> Tensor:
    """What was kept for a tensor; nothing (zeros) when there is none or its shape has changed."""
    if earlier is None or earlier.shape != like.shape:
        return torch.zeros(like.shape, dtype=dtype, device=like.device)
    return earlier
