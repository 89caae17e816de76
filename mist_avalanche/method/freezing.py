"""While a strategy trains, nothing but the kept entries of the backbone moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .sparse_sgd import draw_kept, entries_of


class FrozenEntries:
    """Keeps every backbone entry that is not selected as it was, bit for bit.

    A copy of everything before the classifier is made once. After each optimizer step all entries
    are put back from it but those that were selected and kept in this step. So it holds for any
    optimizer, its momentum and weight decay, a second optimizer, plugins that change gradients
    (A-GEM, GEM), and layers that are unfrozen while the strategy trains.

    Args:
        parameters: everything before the classifier, by name.
        masks: entries that may move, by name; of other parameters none may.
        scales: factors on their gradients, by name.
        drop_rate: probability that a selected entry is dropped in a step.
        generator: of the draws, on the parameters' device.
        restore: False lets everything move, as in the published code, and only masks gradients.

    Attributes:
        changed: entries that the last step changed, a scalar tensor; None before it.
        total: entries of all parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        *,
        scales: Mapping[str, Tensor],
        drop_rate: float,
        generator: torch.Generator,
        restore: bool = True,
    ) -> None:
        self.drop_rate, self.generator, self.restore = drop_rate, generator, restore
        self.changed: Tensor | None = None
        self.total = sum(p.numel() for p in parameters.values())
        self._parameters = [*parameters.values()]
        nothing = torch.zeros(0, dtype=torch.int64)
        self._entries = [
            entries_of(masks[name]) if name in masks else nothing.to(p.device)
            for name, p in parameters.items()
        ]
        self._scales = [
            scales[name].take(entries) if name in scales else None
            for name, entries in zip(parameters, self._entries, strict=True)
        ]
        self._copies = [p.detach().clone() for p in self._parameters]
        self._versions = self._now()
        self._kept: list[Tensor] = []  # of each parameter's entries, those kept in this step
        self._updating = False
        self._hook: Any = None

    def attach(self, optimizer: Any) -> None:
        """Put back after every step of an optimizer, for loops that call no :meth:`end_update`."""
        self.detach()
        if hasattr(optimizer, "register_step_post_hook"):
            self._hook = optimizer.register_step_post_hook(
                lambda *_: None if self._updating else self.put_back()
            )

    def detach(self) -> None:
        """Let go of the optimizer."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of all entries to zero but those that are kept in this step.

        The same entries are kept when gradients accumulate over several calls.
        """
        rows = zip(self._parameters, self._entries, self._draw(), strict=True)
        for p, entries, kept in rows:
            if p.grad is not None:
                gradient = p.grad.take(entries)
                p.grad.zero_().put_(entries, torch.where(kept, gradient, 0))

    @torch.no_grad()
    def begin_update(self) -> None:
        """Scale the gradients of entries that earlier experiences selected, once per step."""
        self._updating = True
        for p, entries, scale in zip(self._parameters, self._entries, self._scales, strict=True):
            if p.grad is not None and scale is not None:
                p.grad.put_(entries, p.grad.take(entries) * scale)

    def end_update(self) -> None:
        """Put back after the steps of all optimizers."""
        self._updating = False
        self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Put back every entry that was not to move in this step."""
        now = self._now()
        moved = [i for i, version in enumerate(now) if version != self._versions[i]]
        if not moved:
            return
        changed, kept = [], self._draw()
        for i in moved:
            p, copy, entries = self._parameters[i], self._copies[i], self._entries[i]
            if self.restore:
                old = copy.take(entries)
                new = torch.where(kept[i], p.take(entries), old)
                p.copy_(copy).put_(entries, new)
                copy.put_(entries, new)
                changed.append((new != old).sum())
            else:
                changed.append((p != copy).sum())
                copy.copy_(p)
        self.changed = torch.stack(changed).sum()
        self._kept, self._versions = [], self._now()

    @torch.no_grad()
    def finish(self) -> None:
        """At the end of an experience, put back whatever else has moved what is not selected.

        That includes what was written through ``.data``, which no version counter shows.
        """
        self.detach()
        if self.restore:
            for p, copy, entries in zip(self._parameters, self._copies, self._entries, strict=True):
                p.copy_(copy.put_(entries, p.take(entries)))

    def _draw(self) -> list[Tensor]:
        """By parameter, which of its selected entries this step keeps: drawn once per step."""
        if not self._kept:
            self._kept = [
                draw_kept(len(entries), self.drop_rate, entries.device, self.generator)
                for entries in self._entries
            ]
        return self._kept

    def _now(self) -> list[int]:
        """Version counters of the parameters, which operations in place count up."""
        return [p._version for p in self._parameters]
