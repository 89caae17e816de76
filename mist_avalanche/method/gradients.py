"""Masking and dropping gradients.

The selected entries of all parameters are treated as one flat vector of K numbers, and no Python
loop ever runs over entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .entries import Entries


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


def gradients_of(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of a loss, dense ones in place of sparse ones; ``.grad`` stays as it is.

    Raises:
        ValueError: the model uses reentrant checkpointing, which cannot give them.
    """
    try:
        found = torch.autograd.grad(loss, list(leaves), allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "The model uses reentrant gradient checkpointing, which cannot give the gradients of "
            "chosen parameters. Use torch.utils.checkpoint.checkpoint(…, use_reentrant=False) in "
            "it, or MISTPlugin(chunk_size=N) instead."
        ) from error
    return [g.to_dense() if g is not None and g.is_sparse else g for g in found]


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
