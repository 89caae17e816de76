"""The precision that a backbone computes in."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor


def autocast_of(precision: str, x: Tensor) -> torch.autocast:
    """The context for a backbone on ``x``: autocast to bf16 where ``precision`` is ``"bf16"``.

    On a CPU without bf16 there is a warning: it is right there, and many times slower.
    """
    bf16 = precision == "bf16"
    if bf16 and x.device.type == "cpu" and not _cpu_has_bf16():
        warnings.warn(
            "This CPU has no bf16, and imitates it several times slower than float32. "
            "Leave precision (--precision) at '32'.",
            stacklevel=2,
        )
    return torch.autocast(x.device.type, torch.bfloat16, enabled=bf16)


@cache
def _cpu_has_bf16() -> bool:
    """Whether oneDNN has fast kernels for it here; True where torch cannot tell."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())
