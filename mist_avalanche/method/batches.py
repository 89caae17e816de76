"""The plugin's own mini-batches: reproducible whatever the number of workers, without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .._support.distributed import share
from .._support.randomness import isolated_rng


class SeededItems(Dataset[Any]):
    """A dataset indexed by (index, seed): random transforms depend on nothing but the seed."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> Any:
        index, seed = item
        with isolated_rng(seed, torch.device("cpu")):
            return self.dataset[index]


class SeededBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (index, seed), drawn anew in every epoch.

    Of several processes each has its share of every batch, or one image where that is empty.

    Args:
        n: images.
        batch_size: images in a batch.
        generator: of order and seeds.
        smallest: images in a last batch; with fewer it is left out. One image has no contrast.
        shuffle: or go through the images in order.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        generator: torch.Generator,
        smallest: int = 2,
        *,
        shuffle: bool = True,
    ) -> None:
        self.n, self.batch_size, self.generator = n, batch_size, generator
        self.smallest, self.shuffle = smallest, shuffle
        self.first = 0  # batch of the next epoch

    def __len__(self) -> int:
        return self.n // self.batch_size + (self.n % self.batch_size >= self.smallest)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order: Sequence[int] = torch.randperm(self.n, generator=self.generator).tolist()
        seeds = torch.randint(2**62, (self.n,), generator=self.generator).tolist()
        if not self.shuffle:
            order = range(self.n)
        items = list(zip(order, seeds, strict=True))
        first, self.first = self.first, 0
        for batch in range(first, len(self)):
            whole = items[batch * self.batch_size : (batch + 1) * self.batch_size]
            own = share(len(whole))
            yield whole[own.start : own.stop] or whole[:1]

    def counts(self, first: int) -> Iterator[int]:
        """This process's share of each batch from one on."""
        for batch in range(first, len(self)):
            yield len(share(min(self.batch_size, self.n - batch * self.batch_size)))


class Batches:
    """Epochs of (images, labels) on a device; every iteration over it is a new epoch.

    Of several processes each has its share of every batch. Where that is empty there are no labels
    and one image, which a backbone can take and whose features do not count.

    Args:
        dataset: items (x, y, ...).
        batch_size: images in a batch.
        seed: of order and random transforms.
        device: where the batches go.
        num_workers: of the data loader; it changes no number.
    """

    def __init__(
        self, dataset: Any, batch_size: int, seed: int, device: torch.device, num_workers: int = 0
    ) -> None:
        self._order = torch.Generator().manual_seed(seed)
        self._epoch = self._order.get_state()  # what the running epoch was drawn from
        self._given = 0  # batches of it so far
        self.device = device
        self._sampler = SeededBatches(len(dataset), batch_size, self._order)
        self.loader = DataLoader(
            SeededItems(dataset),
            batch_sampler=self._sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=getattr(dataset, "collate_fn", None),
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._epoch, self._given = self._order.get_state(), self._sampler.first
        counts = self._sampler.counts(self._given)
        for batch, count in zip(self.loader, counts, strict=True):
            self._given += 1
            yield (
                batch[0].to(self.device, non_blocking=True),
                batch[1][:count].to(self.device, non_blocking=True),
            )

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch this is."""
        return {"epoch": self._epoch, "given": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration give the rest of that epoch."""
        self._order.set_state(state["epoch"])
        self._sampler.first = state["given"]
