"""Queries of images to evaluate, computed once while the ViT is the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._support.checks import check_integer
from .._support.distributed import gather_rows
from ..models.prompts import PromptedViT
from ._batches import own_share
from .feature_cache import FeatureCache, Features, fingerprint, steady


class Queries:
    """Queries of the datasets of an evaluation.

    Args:
        model: gives them.
        cache_mb: megabytes in memory, more in a temporary file; 0 keeps none.
    """

    def __init__(self, model: PromptedViT, cache_mb: int) -> None:
        self.model = model
        size = check_integer("cache_mb", cache_mb, 0) * 10**6
        self._cache = FeatureCache(size) if size else None
        self._ready: dict[int, Tensor] = {}  # by the id of the dataset

    def prepare(self, experiences: Iterable[Any], batch_size: int, num_workers: int) -> None:
        """Compute those of all images that are new, and not a matter of chance."""
        if self._cache is None:
            return
        looks = steady(e for e in experiences if len(e.dataset))
        state = fingerprint(self.model.backbone) + self.model.precision.encode()

        def compute(new: list[Any]) -> list[Features]:
            return [self._of(dataset.eval(), batch_size, num_workers) for dataset in new]

        found = self._cache.get(looks, state, compute)
        self._ready = {id(d): f.features for (d, _), f in zip(looks, found, strict=True)}

    def _of(self, dataset: Any, batch_size: int, num_workers: int) -> Features:
        """Queries (n, D) of a dataset in order; labels are not needed, and left out."""
        device = next(self.model.parameters()).device
        loader = own_share([dataset], batch_size, device, num_workers)
        rows = torch.cat([self.model.query(batch[0].to(device)) for batch in loader])
        none = torch.zeros(0, dtype=torch.int64)
        return Features(gather_rows(rows[: loader.count]).cpu(), none, none)

    def beside(self, loader: Any, dataset: Any) -> Any:
        """The loader of a dataset in order, with the queries where there are any."""
        found = self._ready.get(id(dataset))
        return loader if found is None else _WithQueries(loader, found)

    def put_away(self) -> None:
        """The evaluation is over."""
        self._ready = {}

    def clear(self) -> None:
        """Forget all."""
        self._ready = {}
        if self._cache is not None:
            self._cache.clear()


class _WithQueries:
    """Batches of a loader, and the queries (B, D) of the last one."""

    def __init__(self, loader: Any, queries: Tensor) -> None:
        self.loader, self.queries = loader, queries
        self.query: Tensor | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        first = 0
        for batch in self.loader:
            end = first + len(batch[0])
            self.query = self.queries[first:end]
            first = end
            yield batch


def query_of(loader: Any) -> Tensor | None:
    """The queries of a loader's last batch; None where it has none."""
    return loader.query if isinstance(loader, _WithQueries) else None
