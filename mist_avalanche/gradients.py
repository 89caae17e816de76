"""Masking and dropping gradients, and keeping everything else fixed to the bit.

The selected entries of all parameters are treated as one flat vector of K numbers, and no Python
loop ever runs over entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._entries import Entries


class SelectedEntries:
    """The selected entries of some parameters, gathered into and scattered from a flat vector.

    Args:
        parameters: name to parameter.
        selected: name to the selected entries; parameters without any are left out.
    """

    def __init__(self, parameters: Mapping[str, Tensor], selected: Mapping[str, Entries]) -> None:
        self.names = [name for name in selected if name in parameters]
        self.parameters = [parameters[name] for name in self.names]
        self.total = sum(p.numel() for p in self.parameters)
        self._positions = [selected[name].positions for name in self.names]  # None: all
        self._sizes = [len(selected[name]) for name in self.names]

    def __len__(self) -> int:
        """K, the number of selected entries."""
        return sum(self._sizes)

    @property
    def everything(self) -> bool:
        """True when no entry is left out."""
        return len(self) == self.total

    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Entries (K,) of tensors shaped as the parameters; None gives zeros."""
        parts = []
        for tensor, p, index, size in zip(
            tensors, self.parameters, self._positions, self._sizes, strict=True
        ):
            if tensor is None:
                parts.append(p.new_zeros(size))
            else:
                flat = tensor.detach().reshape(-1)
                parts.append(flat if index is None else flat.index_select(0, index))
        return torch.cat(parts)

    def scatter(self, values: Tensor, tensors: Sequence[Tensor | None]) -> None:
        """Write entries (K,) into tensors shaped as the parameters, in place; None is skipped."""
        for tensor, index, part in zip(
            tensors, self._positions, torch.split(values, self._sizes), strict=True
        ):
            if tensor is None:
                continue
            tensor = tensor.detach()
            if index is None:
                tensor.copy_(part.view(tensor.shape))
            elif tensor.is_contiguous():
                tensor.view(-1).index_copy_(0, index.long(), part.to(tensor.dtype))
            else:  # a view of a non-contiguous tensor would be a copy
                tensor.put_(index.long(), part.to(tensor.dtype))


def keep_entries(n: int, drop_rate: float, generator: torch.Generator) -> Tensor:
    """Bool (n,) on the generator's device, each True with probability 1 - drop_rate."""
    if drop_rate == 0:
        return torch.ones(n, dtype=torch.bool, device=generator.device)
    return torch.rand(n, device=generator.device, generator=generator) >= drop_rate


def masked_gradient(gradient: Tensor, keep: Tensor, decay: Tensor | None) -> Tensor:
    """``gradient`` · ``decay`` where ``keep``, else 0 (whatever was there, NaN too)."""
    if decay is not None:
        gradient = gradient * decay.to(gradient.dtype)
    return torch.where(keep, gradient, torch.zeros_like(gradient))


class StepGuard:
    """Lets an optimizer's step move the kept entries only.

    It copies the parameters before the step and puts back, afterwards, every entry that is not
    kept. So it holds for any optimizer, its state, its weight decay, and any gradient.

    Args:
        entries: the selected entries.
        drop_rate: probability that a selected entry rests in a step.
        generator: of the draws, on the parameters' device.
        decay: (K,) factor on the selected gradients, or None.
        restore: False lets the step move everything and counts only.
    """

    def __init__(
        self,
        entries: SelectedEntries,
        drop_rate: float,
        generator: torch.Generator,
        decay: Tensor | None = None,
        *,
        restore: bool = True,
    ) -> None:
        self.restore = restore
        self.entries = entries
        self.drop_rate = drop_rate
        self.generator = generator
        self.decay = decay
        self.changed: Tensor | None = None  # number of entries that the last step changed
        self._keep: Tensor | None = None
        self._stepping = False
        self._before: list[Tensor] | None = None
        self._handles: list[Any] = []
        self._optimizer: object = None

    @property
    def keep(self) -> Tensor:
        """(K,) the entries that the coming step may move: one draw a step."""
        if self._keep is None:
            self._keep = keep_entries(len(self.entries), self.drop_rate, self.generator)
        return self._keep

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Leave, in ``.grad`` of the parameters, only the kept entries' gradients.

        Called again while gradients accumulate, it keeps the same entries; overlap decay waits for
        the step, so that it scales every gradient once.
        """
        self._leave(None)

    def _leave(self, decay: Tensor | None) -> None:
        if self.entries.everything and self.drop_rate == 0 and decay is None:
            return
        gradients = [
            None if p.grad is None or p.grad.is_sparse else p.grad for p in self.entries.parameters
        ]
        kept = masked_gradient(self.entries.gather(gradients), self.keep, decay)
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
        self.entries.scatter(kept, gradients)

    @torch.no_grad()
    def before_step(self) -> None:
        """Scale the gradients of earlier selections, and remember the parameters."""
        if self.decay is not None:
            self._leave(self.decay)
        parameters = [p.detach() for p in self.entries.parameters]
        if self._before is None:
            self._before = [torch.empty_like(p) for p in parameters]
        torch._foreach_copy_(self._before, parameters)
        self._stepping = True

    @torch.no_grad()
    def after_step(self) -> None:
        """Put every entry back that was not to move, bit for bit, and count the others."""
        if not self._stepping or self._before is None:
            return
        self._stepping = False
        if not self.restore:
            self._keep = None
            self.changed = torch.stack(
                [(p != b).sum() for p, b in zip(self.entries.parameters, self._before, strict=True)]
            ).sum()
            return
        after = self.entries.gather(self.entries.parameters)
        before = self.entries.gather(self._before)
        kept = torch.where(self.keep, after, before)
        if not self.entries.everything:
            parameters = [p.detach() for p in self.entries.parameters]
            torch._foreach_copy_(parameters, self._before)
        self.entries.scatter(kept, self.entries.parameters)
        self.changed = (kept != before).sum()
        self._keep = None

    def attach(self, optimizer: Any) -> None:
        """Guard every later ``optimizer.step()``; attaching twice does nothing."""
        if optimizer is None or self._optimizer is optimizer:
            return
        self.detach()
        self._optimizer = optimizer
        if self.hooks_into(optimizer):
            self._handles = [
                optimizer.register_step_pre_hook(lambda *_: self.before_step()),
                optimizer.register_step_post_hook(lambda *_: self.after_step()),
            ]

    @staticmethod
    def hooks_into(optimizer: Any) -> bool:
        """False for optimizers that are not torch's and so call no step hooks."""
        return getattr(type(optimizer).step, "hooked", False) and hasattr(
            optimizer, "_optimizer_step_pre_hooks"
        )

    def detach(self) -> None:
        """Stop guarding and free the copy."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer, self._before = [], None, None
