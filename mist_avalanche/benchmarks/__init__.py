"""Class-incremental benchmarks: every class in exactly one experience, and no image lost.

Your own benchmark is a function from a number of experiences to an Avalanche benchmark, created
with ``nc_benchmark`` or with :func:`mist_avalanche.benchmarks.stream.class_incremental`::

    def letters(n_experiences=5, *, seed=1993):
        train, test = MyLetters(train=True), MyLetters(train=False)  # (image, class id), .targets
        names = string.ascii_uppercase
        return class_incremental(train, test, n_experiences, class_names=names, seed=seed)

Its ``train_stream`` and ``test_stream`` are used, and, if present, ``class_names`` (by label) and
``split_name`` (how the data are divided into training and test). Task labels should be 0. The
command takes it as ``--benchmark package.module:letters``, and passes ``seed``, ``dataset_root``,
``image_size`` and ``normalize`` if the function has such arguments.
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

# By their names in the command's --benchmark.
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
