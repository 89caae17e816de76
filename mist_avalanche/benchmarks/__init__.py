"""Class-incremental benchmarks: every class in one experience, no sample lost."""

from typing import TYPE_CHECKING

from .._support.lazy import lazily

if TYPE_CHECKING:
    from .cars196 import SplitCars196 as SplitCars196
    from .cifar100 import SplitCIFAR100 as SplitCIFAR100
    from .cub200 import SplitCUB200 as SplitCUB200
    from .folder import SplitFolder as SplitFolder
    from .glyphs import SplitGlyphs as SplitGlyphs
    from .imagenet_a import SplitImageNetA as SplitImageNetA
    from .imagenet_r import SplitImageNetR as SplitImageNetR
    from .omniglot import SplitOmniglot as SplitOmniglot
else:
    __getattr__, __dir__ = lazily(
        __name__,
        SplitCars196="cars196",
        SplitCIFAR100="cifar100",
        SplitCUB200="cub200",
        SplitFolder="folder",
        SplitGlyphs="glyphs",
        SplitImageNetA="imagenet_a",
        SplitImageNetR="imagenet_r",
        SplitOmniglot="omniglot",
    )

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
