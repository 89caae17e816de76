"""Modules whose buffers grow with the data, and take the sizes of a saved state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class GrowingBuffers(nn.Module):
    """``load_state_dict`` takes the sizes of saved buffers; devices and dtypes stay its own.

    Sums keep their precision where a model is converted (``model.half()``), and follow its device.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GrowingBuffers:
        kept = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            now = self.get_buffer(name)
            if now.dtype != buffer.dtype:
                setattr(self, name, buffer.to(now.device))
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                empty = torch.zeros(saved.shape, dtype=buffer.dtype, device=buffer.device)
                setattr(self, name, empty)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
