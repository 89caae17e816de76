"""Class-incremental benchmarks: every class in one experience, no image lost.

A benchmark of your own is a function that returns an Avalanche benchmark with a train and a test
stream, for example ``nc_benchmark(...)``, or :func:`stream.class_incremental` on a training and a
test set. The labels of one experience must be in no other one, and task labels should be 0. Two
attributes are read where the benchmark has them, and both are optional: ``class_names``, the
names by label, and ``split_name``, a string that says how training and test images are divided.
The command takes the function as ``--benchmark package.module:function``::

    def letters(n_experiences=5):
        benchmark = nc_benchmark(train_set, test_set, n_experiences, task_labels=False, seed=0)
        benchmark.class_names = [chr(65 + c) for c in benchmark.classes_order]
        return benchmark
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from avalanche.benchmarks import NCScenario

from .glyphs import SplitGlyphs
from .image_sets import (
    SplitCars196,
    SplitCIFAR100,
    SplitCUB200,
    SplitFolder,
    SplitImageNetA,
    SplitImageNetR,
)
from .omniglot import SplitOmniglot

# By the names of the command's --benchmark.
BENCHMARKS: Mapping[str, Callable[..., NCScenario]] = MappingProxyType(
    {
        "glyphs": SplitGlyphs,
        "omniglot": SplitOmniglot,
        "cifar100": SplitCIFAR100,
        "cub200": SplitCUB200,
        "imagenet-r": SplitImageNetR,
        "imagenet-a": SplitImageNetA,
        "cars196": SplitCars196,
        "folder": SplitFolder,
    }
)

__all__ = [
    "BENCHMARKS",
    "SplitCIFAR100",
    "SplitCUB200",
    "SplitCars196",
    "SplitFolder",
    "SplitGlyphs",
    "SplitImageNetA",
    "SplitImageNetR",
    "SplitOmniglot",
]
