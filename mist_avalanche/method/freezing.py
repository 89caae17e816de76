"""Freezes all backbone entries that are not selected while a strategy trains."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .flat import flatten
from .sparse_sgd import draw_kept


class FrozenEntries:
    """Keeps every backbone entry that is not selected unchanged, bit for bit.

    Everything before the classifier is copied once. After each optimizer step, all entries except
    those that were selected and kept in this step are restored from the copy. This works with any
    optimizer, its momentum and weight decay, a second optimizer, plugins that change gradients
    (A-GEM, GEM), and layers that are unfrozen while the strategy trains.

    Args:
        parameters: everything before the classifier, by name.
        masks: entries that may move, by name; parameters without a mask are frozen.
        scales: factors on the gradients of these entries, by name.
        drop_rate: probability that a selected entry is dropped in a step.
        generator: source of the random draws, on the parameters' device.
        restore: False lets everything move, as in the published code, and only masks gradients.

    Attributes:
        changed: number of entries that the last step changed, a scalar tensor; None before it.
        total: number of entries of all parameters.
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
        self._own = [(p, p.data) for p in parameters.values()]
        self._scaled = bool(scales)
        self._flats = flatten(
            (p, masks.get(name, torch.zeros_like(p).bool()), scales.get(name))
            for name, p in parameters.items()
        )
        self._copies = [flat.weights().clone() for flat in self._flats]
        self._versions = self._now()
        self._kept: list[Tensor] = []  # which selected entries this step keeps
        self._updating = False
        self._hook: Any = None

    def attach(self, optimizer: Any) -> None:
        """Restore after every optimizer step, for loops that do not call :meth:`end_update`."""
        self.detach()
        if hasattr(optimizer, "register_step_post_hook"):
            self._hook = optimizer.register_step_post_hook(
                lambda *_: None if self._updating else self.put_back()
            )

    def detach(self) -> None:
        """Remove the hook from the optimizer."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set all gradients to zero except those of the entries that are kept in this step.

        The same entries are kept when gradients accumulate over several calls.
        """
        for flat, kept in zip(self._flats, self._draw(), strict=True):
            if (gradients := flat.gradients(joined=True)) is not None:
                selected = torch.where(kept, gradients.take(flat.entries), 0)
                gradients.zero_().put_(flat.entries, selected)

    @torch.no_grad()
    def begin_update(self) -> None:
        """Scale the gradients of entries that earlier experiences selected, once per step."""
        self._updating = True
        for flat in self._flats if self._scaled else []:
            if (gradients := flat.gradients(joined=True)) is not None:
                gradients.put_(flat.entries, gradients.take(flat.entries) * flat.scale)

    def end_update(self) -> None:
        """Restore after the steps of all optimizers."""
        self._updating = False
        self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore every entry that must not move in this step."""
        if self._now() == self._versions:
            return
        changed = []
        for flat, copy, kept in zip(self._flats, self._copies, self._draw(), strict=True):
            weights = flat.weights()
            if self.restore:
                old = copy.take(flat.entries)
                new = torch.where(kept, weights.take(flat.entries), old)
                weights.copy_(copy.put_(flat.entries, new))
                changed.append((new != old).sum())
            else:
                changed.append((weights != copy).sum())
                copy.copy_(weights)
        self.changed = torch.stack(changed).sum()
        self._kept, self._versions = [], self._now()

    @torch.no_grad()
    def finish(self) -> None:
        """At the end of an experience, restore all entries that are not selected.

        That includes writes through ``.data``, which no version counter records.
        """
        self.detach()
        for flat, copy in zip(self._flats, self._copies, strict=True) if self.restore else []:
            weights = flat.weights()
            weights.copy_(copy.put_(flat.entries, weights.take(flat.entries)))
        for p, memory in self._own:
            p.data = memory.copy_(p.data)

    def _draw(self) -> list[Tensor]:
        """Which of the selected entries this step keeps; drawn once per step."""
        if not self._kept:
            self._kept = [
                draw_kept(len(flat.entries), self.drop_rate, flat.entries.device, self.generator)
                for flat in self._flats
            ]
        return self._kept

    def _now(self) -> list[int]:
        """Version counters of the parameters, which in-place operations increment."""
        return [p._version for p, _ in self._own]
