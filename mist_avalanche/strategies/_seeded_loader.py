"""Avalanche's loaders, whose random transforms draw the same with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from .._support.randomness import derive_seed
from ..method.batches import SeededItems


class _WithSeeds:
    """Batches of (index, seed), of batches of indices."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.seed = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        draw = torch.Generator().manual_seed(self.seed)
        for batch in self.batches:
            seeds = torch.randint(2**62, (len(batch),), generator=draw).tolist()
            yield list(zip(map(int, batch), seeds, strict=True))


class SeededLoader:
    """Epochs of a strategy's loader: the same order, with a seed for the transforms of each item.

    Args:
        loader: of torch or Avalanche.
        strategy: its seed is torch's, and the number of its iterations.
    """

    def __init__(self, loader: Any, strategy: Any) -> None:
        self.loader, self.strategy = loader, strategy
        self._kept: DataLoader[Any] | None = None  # with workers that outlive an epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        made, self._kept = self._kept or self._make(), None
        if made.persistent_workers:
            self._kept = made
        sampler: Any = made.batch_sampler
        steps = self.strategy.clock.train_iterations
        sampler.seed = derive_seed(torch.initial_seed(), steps, 1)
        torch.empty((), dtype=torch.int64).random_()  # torch's seed of the workers; see _make
        return iter(made)

    def _make(self) -> DataLoader[Any]:
        several = isinstance(self.loader, MultiDatasetDataLoader)
        plain = self.loader._get_loader() if several else self.loader
        return DataLoader(
            SeededItems(plain.dataset),
            batch_sampler=_WithSeeds(plain.batch_sampler),
            num_workers=plain.num_workers,
            persistent_workers=plain.persistent_workers,
            collate_fn=plain.collate_fn,
            pin_memory=plain.pin_memory,
            timeout=plain.timeout,
            worker_init_fn=plain.worker_init_fn,
            multiprocessing_context=plain.multiprocessing_context,
            generator=torch.Generator(),  # persistent workers draw a seed in their first epoch only
            prefetch_factor=plain.prefetch_factor if plain.num_workers else None,
        )


def seeded(loader: Any, strategy: Any) -> Any:
    """A loader with seeded items; as it is where it is not one of indexed batches."""
    if not isinstance(loader, MultiDatasetDataLoader):
        known = isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, BatchSampler)
        if not known or isinstance(loader.dataset, IterableDataset):
            return loader
    return SeededLoader(loader, strategy)
