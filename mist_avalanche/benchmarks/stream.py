"""Class-incremental streams without lost images: class order, experience sizes, labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from avalanche.benchmarks import NCScenario
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark

from .images import digest
from .transforms import Transform


def class_order(
    n_classes: int,
    seed: int | None = 1993,
    fixed: Sequence[int] | None = None,
    shuffle: bool = True,
) -> list[int]:
    """Class ids in their order of appearance.

    The published order is ``numpy.random.RandomState(1993).permutation(n)``.
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
    """Number of classes per experience: equal sizes and a smaller last one, as published.

    196 classes in 10 experiences are 9 × 20 + 16. If that would leave experiences empty (100
    classes in 30), the sizes differ by at most one.
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
    train: Any,
    test: Any,
    n_experiences: int,
    *,
    class_names: Sequence[str],
    split_name: str = "",
    seed: int | None = 1993,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> NCScenario:
    """Create an Avalanche benchmark with every class in one experience, labels by appearance.

    Args:
        train: a map-style dataset of (image, class id) with ``targets``.
        test: another such dataset with the same classes.
        n_experiences: number of experiences.
        class_names: class names by class id.
        split_name: how the data are divided into training and test, for the results.
        seed: seed of the class order.
        fixed_class_order: class ids in their order of appearance.
        shuffle: False keeps the order of the ids.
        train_transform: transform of a training image.
        eval_transform: transform of a test image.

    Returns:
        A benchmark with ``class_names`` (by label), ``classes_order_original_ids``, ``split_name``
        and ``digests`` of the training and test images. All task labels are 0, as in Avalanche's
        classic benchmarks.

    Raises:
        ValueError: the class order or the number of experiences is impossible.
    """
    order = class_order(len(class_names), seed, fixed_class_order, shuffle)
    benchmark = nc_benchmark(
        train,
        test,
        n_experiences,
        task_labels=False,
        fixed_class_order=order,
        per_exp_classes=dict(enumerate(experience_sizes(len(order), n_experiences))),
        class_ids_from_zero_from_first_exp=True,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )
    benchmark.class_names = [class_names[c] for c in order]
    benchmark.split_name = split_name
    parts = {"training_images": train, "test_images": test}
    benchmark.digests = {part: digest(images, with_sizes=True) for part, images in parts.items()}
    return benchmark
