"""What earlier experiences leave for later ones: decayed and protected entries (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .entries import Entries
from .gradients import SelectedEntries
from .selection import Selection, top_entries


class SelectionHistory:
    """Counts how often each entry was selected, and remembers which are frozen for good.

    Tensors that are always selected take part in neither, as in the reference code.
    """

    def __init__(self) -> None:
        self._counted: dict[str, tuple[Entries, Tensor]] = {}  # with a count (uint8) each
        self._protected: dict[str, Entries] = {}

    @property
    def overlap(self) -> dict[str, Tensor]:
        """Name to the number (uint8) of earlier selections of every entry."""
        return {name: self._counts(name) for name in self._counted}

    @property
    def protected(self) -> dict[str, Tensor]:
        """Name to the entries (bool) that move no more."""
        return {name: entries.mask() for name, entries in self._protected.items()}

    def state_dict(self) -> dict[str, Any]:
        """What was counted, and what is protected, by name."""
        return {
            "counted": {n: (entries.state_dict(), c) for n, (entries, c) in self._counted.items()},
            "protected": {n: entries.state_dict() for n, entries in self._protected.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the history of a :meth:`state_dict`."""
        counted = {n: (Entries.from_state_dict(e), c) for n, (e, c) in state["counted"].items()}
        if any(c.dtype != torch.uint8 or c.shape != (len(e),) for e, c in counted.values()):
            raise ValueError("counts of entries are not one for each")
        self._protected = {n: Entries.from_state_dict(e) for n, e in state["protected"].items()}
        self._counted = counted

    def record(self, selection: Selection) -> None:
        """Count a selection that a new one takes the place of."""
        for name in selection.entries.keys() - selection.always:
            entries = selection.entries[name]
            mask = entries.mask()
            counts = mask.to(torch.uint8)
            if name in self._counted and self._counted[name][0].shape == entries.shape:
                counts += self._counts(name)
            known = Entries.of(counts > 0)
            kept = counts if known.positions is None else counts.flatten()[known.positions.long()]
            self._counted[name] = known, kept.flatten().clone()

    def _counts(self, name: str) -> Tensor:
        """The counts of a tensor, in its shape."""
        entries, counts = self._counted[name]
        flat = torch.zeros(entries.shape.numel(), dtype=torch.uint8, device=entries.device)
        flat[slice(None) if entries.positions is None else entries.positions.long()] = counts
        return flat.view(entries.shape)

    def protect(self, chosen: Mapping[str, Entries]) -> None:
        """Freeze entries for good."""
        for name, entries in chosen.items():
            earlier = self._protected.get(name)
            if earlier is not None and earlier.shape == entries.shape:
                entries = Entries.of(entries.mask() | earlier.mask())
            self._protected[name] = entries

    def movable(self, selection: Selection) -> dict[str, Entries]:
        """What is selected and not protected, by name."""
        movable = dict(selection.entries)
        for name, frozen in self._protected.items():
            if name in movable and movable[name].shape == frozen.shape:
                movable[name] = Entries.of(movable[name].mask() & ~frozen.mask())
        return movable

    def decay(self, entries: SelectedEntries, factor: float) -> Tensor | None:
        """(K,) ``factor`` to the number of earlier selections; None where nothing is scaled."""
        if not self._counted or factor == 1:
            return None
        counts = entries.gather(
            [
                self._counts(name)
                if name in self._counted and self._counted[name][0].shape == p.shape
                else torch.zeros(p.shape, dtype=torch.uint8, device=p.device)
                for name, p in zip(entries.names, entries.parameters, strict=True)
            ]
        )
        wide = any(p.dtype == torch.float64 for p in entries.parameters)
        powers = factor ** torch.arange(256, dtype=torch.float64, device=counts.device)
        return powers.to(torch.float64 if wide else torch.float32)[counts.int()]


def most_sensitive(
    scores: Mapping[str, Tensor], rate: float, always: Collection[str]
) -> dict[str, Entries]:
    """The ``rate`` most sensitive entries of each tensor, at least one; none of ``always``."""
    return {
        name: Entries.of(top_entries(score, rate))
        for name, score in scores.items()
        if name not in always
    }
