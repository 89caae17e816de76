"""Class-incremental benchmarks: every class in one experience, no sample lost."""

from .cars196 import SplitCars196 as SplitCars196
from .cifar100 import SplitCIFAR100 as SplitCIFAR100
from .cub200 import SplitCUB200 as SplitCUB200
from .folder import SplitFolder as SplitFolder
from .glyphs import SplitGlyphs as SplitGlyphs
from .imagenet_a import SplitImageNetA as SplitImageNetA
from .imagenet_r import SplitImageNetR as SplitImageNetR
from .omniglot import SplitOmniglot as SplitOmniglot

__all__ = [
    "SplitCIFAR100",
    "SplitCUB200",
    "SplitCars196",
    "SplitFolder",
    "SplitGlyphs",
    "SplitImageNetA",
    "SplitImageNetR",
    "SplitOmniglot",
]
