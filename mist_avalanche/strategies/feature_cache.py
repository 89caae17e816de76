"""Features that are computed once while what they are computed from stays the same."""

from __future__ import annotations

import hashlib
import random
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from .._support.randomness import isolated_rng


class Features(NamedTuple):
    """Features (n, D), or (n, V, D) of V views, labels (n,) and task labels (n,) of n images."""

    features: Tensor
    labels: Tensor
    tasks: Tensor


def fingerprint(module: nn.Module) -> bytes:
    """A digest of what a module computes with, as far as it can be seen from outside.

    Names, dtypes, shapes and bits of all parameters and buffers, those that are not persistent
    included; which forward hooks are registered; what ``repr`` says of every layer. It does not see
    other attributes, a method that was replaced, what a hook does or reads, and chance: features
    of a backbone that draws in eval mode are those of its first draws.
    """
    hooks = [global_hooks._global_forward_pre_hooks, global_hooks._global_forward_hooks]
    hooks += [h for m in module.modules() for h in (m._forward_pre_hooks, m._forward_hooks)]
    numbers = [list(each) for each in hooks]  # torch gives each hook a number of its own
    return _digest(f"{numbers} {module}", []) + bits_of(module)


def bits_of(module: nn.Module) -> bytes:
    """A digest of all parameters and buffers: their names, dtypes, shapes and bits."""
    return _digest("", [*module.named_parameters(), *module.named_buffers()])


def look(dataset: Any) -> bytes | None:
    """A digest of the first image under the eval transform; None where chance has a part in it.

    Chance is a draw from python's, numpy's or torch's global generators, or two draws of the image
    that differ. A transform that changes for other images only goes unseen, and so does one that
    has its own generator and gives the same twice. The global generators are left as they were.
    """
    if not len(dataset):
        return b""
    with isolated_rng(0, torch.device("cpu")):
        before = _generators()
        images = [dataset.eval()[0][0] for _ in range(2)]
        if _generators() != before or not all(isinstance(image, Tensor) for image in images):
            return None
    first, second = (_digest("", [("", image)]) for image in images)
    return first if first == second else None


def steady(experiences: Iterable[Any]) -> list[tuple[Any, bytes]]:
    """The datasets of experiences, each once, with their :func:`look`; without those of chance."""
    datasets = {id(e.dataset): e.dataset for e in experiences}.values()
    looks = [(dataset, look(dataset)) for dataset in datasets]
    return [(dataset, seen) for dataset, seen in looks if seen is not None]


def by_dataset(found: Features, datasets: Sequence[Any]) -> list[Features]:
    """Of datasets in a row, those of each."""
    sizes = [len(dataset) for dataset in datasets]
    parts = (torch.split(part, sizes) for part in found)
    return [Features(*rows) for rows in zip(*parts, strict=True)]


def _generators() -> tuple[Any, ...]:
    """The state of the global generators on the CPU."""
    legacy: Any = np.random.get_state()
    _, keys, *position = legacy
    return random.getstate(), keys.tobytes(), position, torch.get_rng_state().numpy().tobytes()


def _digest(text: str, tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """Of a text, and of names, dtypes, shapes and bits."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat: Any = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.digest()


class FeatureCache:
    """Features of datasets, in memory up to a bound and in a temporary file beyond it.

    What is kept belongs to a state, such as the :func:`fingerprint` of the backbone, and goes when
    the state is another; and to a dataset object with its :func:`look`, and goes with it.
    Transforms are part of a dataset. The files go with the cache.

    Args:
        max_bytes: of features in memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._state: bytes | None = None
        # by id: a weak reference, the look, the features
        self._kept: dict[int, tuple[Any, bytes, Features]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._in_memory = self._files = 0

    def get(
        self,
        looks: Sequence[tuple[Any, bytes]],
        state: bytes,
        compute: Callable[[list[Any]], Sequence[Features]],
    ) -> list[Features]:
        """Features, labels and task labels of each dataset, on the CPU.

        Args:
            looks: each dataset, the same object at every call, with what it looks like now.
            state: whatever else the features depend on.
            compute: gives those of some datasets; called once, with the ones that are not kept.
        """
        new = self._new(looks, state)
        computed = compute([dataset for dataset, _ in new.values()]) if new else ()
        for (dataset, seen), (features, labels, tasks) in zip(new.values(), computed, strict=True):
            found = Features(self._store(features), labels.cpu(), tasks.cpu())
            reference = weakref.ref(dataset, partial(self._forget, id(dataset)))
            self._kept[id(dataset)] = reference, seen, found
        return [self._kept[id(dataset)][2] for dataset, _ in looks]

    def missing(self, looks: Sequence[tuple[Any, bytes]], state: bytes) -> list[Any]:
        """The datasets that :meth:`get` would compute."""
        return [dataset for dataset, _ in self._new(looks, state).values()]

    def _new(
        self, looks: Sequence[tuple[Any, bytes]], state: bytes
    ) -> dict[int, tuple[Any, bytes]]:
        """By id, what is not kept of a state; what is kept of another one goes."""
        if state != self._state:
            self.clear()
            self._state = state
        return {id(d): (d, seen) for d, seen in looks if not self._has(d, seen)}

    @property
    def in_memory(self) -> int:
        """Bytes of features in memory."""
        return self._in_memory

    def clear(self) -> None:
        """Forget everything."""
        self._kept, self._state = {}, None
        self._in_memory = self._files = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _has(self, dataset: Any, seen: bytes) -> bool:
        """Whether features of a dataset are kept that looked like this."""
        kept = self._kept.get(id(dataset))
        return kept is not None and kept[0]() is dataset and kept[1] == seen

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
