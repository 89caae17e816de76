"""What is stored of past images: buffers that grow with the data, and a memory of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .drift import AffineMap


class GrowingBuffers(nn.Module):
    """``load_state_dict`` takes the sizes of the saved buffers; dtypes and device stay its own."""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FeatureMemory(GrowingBuffers):
    """The features of every past image, in float16: 2 D bytes per image, no pixels.

    At D = 768 that is 1.5 kB per image, and less than G at M = 10000 in float64 up to 520000
    images. Stored are deviations from the mean of the first features, so that float16 rounds those
    and not a large common part.
    """

    center: Tensor  # (D,)
    deviations: Tensor  # (N, D)
    labels: Tensor  # (N,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(0, 0, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Store features (n, D) of labels (n,), all finite.

        Raises:
            FloatingPointError: a feature is beyond the range of float16; nothing was added.
        """
        x = features.detach().to(torch.float64)
        first = not len(self.labels)
        center = x.mean(0) if first else self.center
        deviations = self._half(x - center)
        self.deviations = deviations if first else torch.cat([self.deviations, deviations])
        self.center, self.labels = center, torch.cat([self.labels, labels])

    def move(self, drift: AffineMap) -> None:
        """Move every feature.

        Raises:
            FloatingPointError: a feature is then beyond the range of float16; nothing was moved.
        """
        self.deviations = self._half(self.deviations.to(drift.weight.dtype) @ drift.weight)
        self.center = drift(self.center)

    def recall(self) -> tuple[Tensor, Tensor]:
        """Features (N, D) in float32 and labels (N,)."""
        return (self.center + self.deviations).float(), self.labels

    def _half(self, x: Tensor) -> Tensor:
        half = x.to(torch.float16)
        if not torch.isfinite(half).all():
            raise FloatingPointError(
                "A feature is beyond 65504, the range of float16 in which drift compensation "
                "stores features. Scale the backbone's output, or omit drift_compensation."
            )
        return half
