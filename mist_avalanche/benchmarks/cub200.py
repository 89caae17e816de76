"""SplitCUB200: Caltech-UCSD Birds-200-2011 (Wah et al., 2011)."""

from __future__ import annotations

from .image_benchmark import image_benchmark
from .storage.catalog import CUB200

SplitCUB200 = image_benchmark(
    "SplitCUB200",
    """11788 photographs of 200 species of birds; as published, in [0, 1].

    The official split is 5994 / 5794; PILOT's copy has train and test folders of another one,
    9430 / 2358.""",
    CUB200,
)
