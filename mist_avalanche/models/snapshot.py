"""A module's weights as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Snapshot:
    """A copy of all parameters and buffers of a module, the same objects as long as it is used."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = [t.detach() for t in (*module.parameters(), *module.buffers())]
        self._copy = [t.clone() for t in self._tensors]

    def restore(self) -> None:
        """Let the module be as it was when the copy was made."""
        torch._foreach_copy_(self._tensors, self._copy)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module is as it was when the copy was made."""
        now = [t.clone() for t in self._tensors]
        try:
            self.restore()
            yield
        finally:
            torch._foreach_copy_(self._tensors, now)
