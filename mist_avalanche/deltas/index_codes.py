"""Which entries of a tensor are meant, in as few bytes as it takes (pure).

Three codings, of which the shortest is used:

- gaps of 8 or of 16 bits: for each entry, how many entries lie between it and the one before. The
  largest number (255 or 65535) stands for that many entries of which none is meant, and more to
  come. Whatever is written, the indices that come out ascend.
- a bitmap, a bit for each entry of the tensor, the lowest bit first.

At a density of 5 % a gap takes 1.00 bytes, an int32 index 4.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
GAPS, BITMAP = "gaps", "bitmap"
_LARGEST = MappingProxyType({1: 255, 2: 65535})  # by bytes of a gap


def encode(index: Index, n: int) -> tuple[str, NDArray[Any]]:
    """The name of the shortest coding, and its vector.

    Args:
        index: (K,) ascending, in [0, n).
        n: number of entries of the tensor.
    """
    gaps = np.diff(index, prepend=-1) - 1
    sizes = {width: width * int((gaps // _LARGEST[width] + 1).sum()) for width in _LARGEST}
    width = min(sizes, key=lambda width: sizes[width])
    if -(-n // 8) < sizes[width]:
        mask = np.zeros(n, dtype=np.bool_)
        mask[index] = True
        return BITMAP, np.packbits(mask, bitorder="little")
    most = _LARGEST[width]
    skips, rest = np.divmod(gaps, most)
    codes = np.full(len(index) + int(skips.sum()), most, dtype=f"u{width}")
    codes[np.cumsum(skips + 1) - 1] = rest
    return GAPS, codes


def decode(coding: str, codes: NDArray[Any], count: int, n: int) -> Index:
    """The indices (``count``,) that :func:`encode` was given.

    Takes memory in proportion to the codes, whatever ``n``.

    Raises:
        ValueError: another number of entries, or one beyond the tensor's ``n``.
    """
    if coding == GAPS:
        if codes.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"has gaps of dtype {codes.dtype}")
        meant = codes != _LARGEST[codes.itemsize]
        if len(codes) and not meant[-1]:
            raise ValueError("has gaps that end before an entry")
        index: Index = (np.cumsum(codes, dtype=np.int64) + np.cumsum(meant) - 1)[meant]
    elif coding == BITMAP:
        if codes.dtype != np.uint8 or len(codes) != -(-n // 8):
            raise ValueError(f"has a bitmap of {len(codes)} {codes.dtype} for {n} entries")
        index = np.flatnonzero(np.unpackbits(codes, bitorder="little"))
    else:
        raise ValueError(f"has the unknown coding {coding!r}")
    if len(index) != count:
        raise ValueError(f"has {len(index)} indices for {count} values")
    if count and index[-1] >= n:
        raise ValueError(f"has the index {index[-1]}, beyond its {n} entries")
    return index
