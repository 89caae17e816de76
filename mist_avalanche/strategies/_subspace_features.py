"""Features of test images in EASE's subspaces, computed once while a subspace is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..models.subspaces import SubspaceViT
from .feature_cache import FeatureCache, Features, bits_of, by_dataset, steady


class SubspaceFeatures:
    """A cache a subspace, and what it has for an evaluation.

    Args:
        cache_mb: megabytes in memory, of all together; more in temporary files; 0 keeps none.
    """

    def __init__(self, cache_mb: int) -> None:
        self._max_bytes = cache_mb * 10**6
        self._caches: dict[int, FeatureCache] = {}
        self._ready: dict[int, Features] = {}  # by the id of the dataset

    def prepare(
        self,
        model: SubspaceViT,
        states: Sequence[bytes],
        experiences: Iterable[Any],
        take: Callable[..., Features],
    ) -> None:
        """Compute the features of all images that are new, and not a matter of chance.

        Args:
            model: of which to take features.
            states: of the ViT, by subspace.
            experiences: to be evaluated.
            take: features of datasets, by what gives those of images: (datasets, run=...).
        """
        if not self._max_bytes:
            return
        looks = steady(experiences)
        precision = model.run_backbone.precision.encode()
        of_block, blocks_of = {}, dict[int, list[int]]()  # blocks that lack a dataset, by its id
        for block in model.blocks():
            adapter = b"" if block < 0 else bits_of(model.adapters[block])
            of_block[block] = states[max(0, block)] + adapter + precision
            cache = self._caches.setdefault(block, FeatureCache(0))
            for dataset in cache.missing(looks, of_block[block]):
                blocks_of.setdefault(id(dataset), []).append(block)
        computed = self._compute(model, looks, blocks_of, take)
        found = []
        for block, state in of_block.items():
            cache = self._caches[block]
            others = (c.in_memory for b, c in self._caches.items() if b != block)
            cache.max_bytes = max(0, self._max_bytes - sum(others))
            found.append(cache.get(looks, state, partial(_taken_from, computed, block)))
        for (dataset, _), parts in zip(looks, zip(*found, strict=True), strict=True):
            features = torch.stack([part.features for part in parts], dim=1)
            self._ready[id(dataset)] = parts[0]._replace(features=features)

    def _compute(
        self,
        model: SubspaceViT,
        looks: Sequence[tuple[Any, bytes]],
        blocks_of: Mapping[int, Sequence[int]],
        take: Callable[..., Features],
    ) -> dict[tuple[int, int], Features]:
        """Features (n, D) by id and block; images of datasets that lack the same come once."""
        together: dict[tuple[int, ...], list[Any]] = {}
        for dataset, _ in looks:
            if id(dataset) in blocks_of:
                together.setdefault(tuple(blocks_of[id(dataset)]), []).append(dataset)
        computed = {}
        for blocks, datasets in together.items():
            evaluated = [dataset.eval() for dataset in datasets]
            found = take(evaluated, run=partial(model.features, blocks=blocks))
            for dataset, part in zip(datasets, by_dataset(found, datasets), strict=True):
                for i, block in enumerate(blocks):
                    of = part._replace(features=part.features[:, i].clone())
                    computed[id(dataset), block] = of
        return computed

    def of(self, dataset: Any) -> Features | None:
        """Features (n, S, D) of a dataset that is evaluated; None where there are none."""
        return self._ready.get(id(dataset))

    def put_away(self) -> None:
        """The evaluation is over."""
        self._ready = {}

    def clear(self) -> None:
        """Forget all."""
        self._caches, self._ready = {}, {}


def _taken_from(
    computed: Mapping[tuple[int, int], Features], block: int, datasets: Sequence[Any]
) -> list[Features]:
    """Of each dataset in one block."""
    return [computed[id(dataset), block] for dataset in datasets]
