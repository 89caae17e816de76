"""The core of the image benchmarks: a dataset found on disk, as a class-incremental stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avalanche.benchmarks import NCScenario

from ._catalog import DatasetFacts
from ._find import find, split_name
from ._stream import Source, Transform, class_incremental


def image_benchmark(
    facts: DatasetFacts,
    n_experiences: int,
    *,
    dataset_root: str | Path | None,
    split: str | None,
    seed: int | None,
    fixed_class_order: Sequence[int] | None,
    shuffle: bool,
    train_transform: Transform,
    eval_transform: Transform,
    download: bool,
) -> NCScenario:
    """A benchmark of a dataset's images; arguments and errors as for ``SplitImageNetR``."""
    found = find(facts, dataset_root, split=split, download=download)
    return class_incremental(
        Source(found.train, found.test, found.class_names, split_name(facts, found)),
        n_experiences,
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )
