"""Class-incremental benchmarks: every class in one experience, no sample lost."""

from .glyphs import SplitGlyphs as SplitGlyphs
from .omniglot import SplitOmniglot as SplitOmniglot

__all__ = ["SplitGlyphs", "SplitOmniglot"]
