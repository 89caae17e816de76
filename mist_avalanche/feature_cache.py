"""Features that are computed once while what they are computed from stays the same."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """Features (n, D), or (n, V, D) of V views, labels (n,) and task labels (n,) of n images."""

    features: Tensor
    labels: Tensor
    tasks: Tensor


def fingerprint(module: nn.Module) -> bytes:
    """A digest of all parameters and buffers: their names, dtypes, shapes and bits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.digest()


class FeatureCache:
    """Features of datasets, in memory up to a bound and in a temporary file beyond it.

    What is kept belongs to a state, such as the :func:`fingerprint` of the backbone, and goes when
    the state is another; and to a dataset object, and goes with it. Transforms are part of a
    dataset. The files go with the cache.

    Args:
        max_bytes: of features in memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._state: bytes | None = None
        self._kept: dict[int, tuple[Any, Features]] = {}  # id: a weak reference, and its features
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._in_memory = self._files = 0

    def get(
        self,
        datasets: Sequence[Any],
        state: bytes,
        compute: Callable[[list[Any]], Sequence[Features]],
    ) -> list[Features]:
        """Features, labels and task labels of each dataset, on the CPU.

        Args:
            datasets: the same objects at every call.
            state: whatever else the features depend on.
            compute: gives those of some datasets; called once, with the ones that are not kept.
        """
        if state != self._state:
            self.clear()
            self._state = state
        new = {id(d): d for d in datasets if self._find(d) is None}
        computed = compute([*new.values()]) if new else ()
        for dataset, (features, labels, tasks) in zip(new.values(), computed, strict=True):
            found = Features(self._store(features), labels.cpu(), tasks.cpu())
            reference = weakref.ref(dataset, partial(self._forget, id(dataset)))
            self._kept[id(dataset)] = reference, found
        return [self._kept[id(d)][1] for d in datasets]

    def clear(self) -> None:
        """Forget everything."""
        self._kept, self._state = {}, None
        self._in_memory = self._files = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _find(self, dataset: Any) -> Features | None:
        """What is kept of a dataset."""
        reference, features = self._kept.get(id(dataset), (lambda: None, None))
        return features if reference() is dataset else None

    def _forget(self, key: int, reference: Any) -> None:
        """A dataset is gone: its id may pass to another object."""
        if key in self._kept and self._kept[key][0] is reference:
            del self._kept[key]

    def _store(self, features: Tensor) -> Tensor:
        """The features where there is room for them."""
        features = features.detach().cpu()
        size = features.numel() * features.element_size()
        if size == 0 or self._in_memory + size <= self.max_bytes:
            self._in_memory += size
            return features
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mist_avalanche-")
        self._files += 1
        file = Path(self._folder.name) / f"{self._files}"
        mapped = torch.from_file(
            str(file), shared=True, size=features.numel(), dtype=features.dtype
        ).view(features.shape)
        return mapped.copy_(features)
