"""Class-incremental benchmarks: every class in one experience, no image lost.

A benchmark of your own is a function from a number of experiences to an Avalanche benchmark, made
with ``nc_benchmark`` or with :func:`mist_avalanche.benchmarks.stream.class_incremental`::

    def letters(n_experiences=5, *, seed=1993):
        train, test = MyLetters(train=True), MyLetters(train=False)  # (image, class id), .targets
        names = string.ascii_uppercase
        return class_incremental(train, test, n_experiences, class_names=names, seed=seed)

Its ``train_stream`` and ``test_stream`` are read, and where it has them ``class_names`` (by label)
and ``split_name`` (how the data are divided into training and test). Task labels should be 0. The
command takes it as ``--benchmark package.module:letters``, and gives it those of ``seed``,
``dataset_root``, ``image_size`` and ``normalize`` that it has arguments for.
"""

from collections.abc import Callable

from avalanche.benchmarks import NCScenario

from .glyphs import SplitGlyphs
from .image_benchmarks import (
    IMAGE_BENCHMARKS,
    SplitCars196,
    SplitCIFAR100,
    SplitCUB200,
    SplitFolder,
    SplitImageNetA,
    SplitImageNetR,
)
from .omniglot import SplitOmniglot

# By the names of the command's --benchmark.
BENCHMARKS: dict[str, Callable[..., NCScenario]] = {
    "glyphs": SplitGlyphs,
    "omniglot": SplitOmniglot,
    **{benchmark.name: benchmark for benchmark in IMAGE_BENCHMARKS},
}

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
