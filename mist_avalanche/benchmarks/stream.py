"""Class-incremental streams that lose nothing: class order, sizes of experiences, labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from avalanche.benchmarks import NCScenario
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from torchvision.transforms import v2

Transform = Callable[[Any], Any]


class Items(Protocol):
    """A map-style dataset of torch, with ``targets``."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Source:
    """Training and test data before it is split into experiences.

    Args:
        train: items (image, class id).
        test: items (image, class id).
        class_names: the name of every class id.
        split_name: which split of the data this is, for the results.
    """

    train: Items
    test: Items
    class_names: list[str]
    split_name: str


def slight_affine() -> Transform:
    """Rotation, shift, scale and shear as between two drawings of one character."""
    transform: Transform = v2.RandomAffine(
        10, (0.08, 0.08), (0.9, 1.1), 10, interpolation=v2.InterpolationMode.BILINEAR
    )
    return transform


def class_order(
    n_classes: int,
    seed: int | None = 1993,
    fixed: Sequence[int] | None = None,
    shuffle: bool = True,
) -> list[int]:
    """Class ids in their order of appearance.

    The published order is ``numpy.random.RandomState(1993).permutation(n)``.

    Raises:
        ValueError: ``fixed`` is not a permutation of the class ids.
    """
    if fixed is not None:
        order = [int(c) for c in fixed]
        if sorted(order) != list(range(n_classes)):
            raise ValueError(
                f"Expected `fixed_class_order` to name each of the {n_classes} classes 0 to "
                f"{n_classes - 1} once, got {len(order)} entries, {len(set(order))} different."
            )
        return order
    if not shuffle:
        return list(range(n_classes))
    return [int(c) for c in np.random.RandomState(seed).permutation(n_classes)]


def experience_sizes(n_classes: int, n_experiences: int) -> list[int]:
    """Classes in each experience: equal ones and a smaller last, as published.

    196 classes in 10 experiences are 9 × 20 + 16. Where that would leave experiences empty (100
    classes in 30), the sizes differ by one at the most.

    Raises:
        ValueError: there are not that many classes.
    """
    if not 1 <= n_experiences <= n_classes:
        raise ValueError(
            f"Expected `n_experiences` between 1 and the number of classes, {n_classes}; "
            f"got {n_experiences}. Give another number (--experiences)."
        )
    size = -(-n_classes // n_experiences)
    last = n_classes - size * (n_experiences - 1)
    if last > 0:
        return [size] * (n_experiences - 1) + [last]
    small, larger = divmod(n_classes, n_experiences)
    return [small + 1] * larger + [small] * (n_experiences - larger)


def class_incremental(
    source: Source,
    n_experiences: int,
    *,
    seed: int | None,
    fixed_class_order: Sequence[int] | None,
    shuffle: bool,
    train_transform: Transform | None,
    eval_transform: Transform | None,
) -> NCScenario:
    """An Avalanche benchmark: every class in one experience, labels by order of appearance.

    The benchmark has ``class_names`` (by label), ``classes_order_original_ids`` and
    ``split_name``. Task label 0 everywhere, as Avalanche's classic benchmarks have it.
    """
    n_classes = len(source.class_names)
    order = class_order(n_classes, seed, fixed_class_order, shuffle)
    benchmark = nc_benchmark(
        source.train,
        source.test,
        n_experiences,
        task_labels=False,
        fixed_class_order=order,
        per_exp_classes=dict(enumerate(experience_sizes(n_classes, n_experiences))),
        class_ids_from_zero_from_first_exp=True,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )
    benchmark.class_names = [source.class_names[c] for c in order]
    benchmark.split_name = source.split_name
    return benchmark
