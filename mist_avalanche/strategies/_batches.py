"""Batches of images to take features of, and of features that were taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

from .._support.distributed import share
from .feature_cache import Features


class OwnShare(DataLoader[Any]):
    """A loader of which the first ``count`` images count."""

    def __init__(self, count: int, *args: Any, **kwargs: Any) -> None:
        self.count = count
        super().__init__(*args, **kwargs)


class FeatureBatches:
    """Batches [features, labels, task labels] of what was extracted, in order."""

    def __init__(self, found: Features, batch_size: int) -> None:
        self.found, self.batch_size = found, batch_size

    def __len__(self) -> int:
        return -(-len(self.found.labels) // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in zip(*(torch.split(p, self.batch_size) for p in self.found), strict=True):
            yield list(batch)


def collect(
    batches: Iterable[Any], device: torch.device, run: Callable[[Tensor], Tensor]
) -> Features:
    """What ``run`` gives of the images of batches (x, y) or (x, y, …, t), in order.

    Task labels are 0 where there are none.
    """
    rows = []
    for batch in batches:
        x, y, *rest = (part.to(device, non_blocking=True) for part in batch)
        rows.append((run(x), y, rest[-1] if rest else torch.zeros_like(y)))
    return Features(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def own_share(
    datasets: list[Any],
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
    **kwargs: Any,
) -> OwnShare:
    """A loader of this process's share of some datasets together, in order.

    No batch has images of two datasets: features have the same bits whatever is computed along.
    """
    whole: Any = ConcatDataset(datasets)
    own = share(len(whole))
    ends = {own.stop, *(end for end in whole.cumulative_sizes if end in own)}
    batches, start = [], own.start
    for end in sorted(ends):
        batches += [range(i, min(i + batch_size, end)) for i in range(start, end, batch_size)]
        start = end
    return OwnShare(
        len(own),
        whole,
        batch_sampler=batches or [[0]],  # one image, which does not count, for the width
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        collate_fn=datasets[0].collate_fn,
        generator=torch.Generator(),  # the global one goes on alike where features are kept
    )
