"""Classifiers that consist of buffers and grow with the classes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models import DynamicModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import classes_of
from .backbone_with_head import UNSEEN


class GrowingBuffers(nn.Module):
    """``load_state_dict`` resizes buffers to the saved sizes; their dtypes and device are kept."""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class StatisticsHead(GrowingBuffers, DynamicModule, ABC):
    """A head whose buffers grow with the classes: ``counts``, and those of a subclass."""

    class_axes: Mapping[str, int] = {}  # a subclass's buffers: the axis of the classes
    counts: Tensor  # (C,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    @property
    def seen(self) -> Tensor:
        """(C,) True for classes with data."""
        return self.counts > 0

    def grow(self, n_classes: int) -> None:
        """Make room for labels below ``n_classes``; never shrinks."""
        more = max(0, n_classes - len(self.counts))
        for name, axis in {"counts": 0, **self.class_axes}.items():
            buffer = getattr(self, name)
            later_axes = (0, 0) * (buffer.ndim - 1 - axis)  # F.pad starts with the last axis
            setattr(self, name, F.pad(buffer, (*later_axes, 0, more)))

    def adaptation(self, experience: Any) -> None:
        """Make room for the labels of an experience; Avalanche calls this in evaluation too."""
        self.grow(max(classes_of(experience), default=-1) + 1)

    def _count(self, features: Tensor, labels: Tensor) -> None:
        """Make room for labels (B,) and count them; refuse features that are not finite."""
        if int(labels.min()) < 0:
            raise ValueError(f"Expected labels from 0 on, got {int(labels.min())}.")
        if not torch.isfinite(features).all():
            raise FloatingPointError(
                "The backbone returns NaN or Inf features. Check its weights and the images."
            )
        self.grow(int(labels.max()) + 1)
        self.counts.index_add_(0, labels, torch.ones_like(labels))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, ...); -1000 for classes without data."""
        if not self.seen.any():
            return features.new_full((len(features), len(self.counts)), UNSEEN)
        return self._logits(features).masked_fill(~self.seen, UNSEEN)

    @abstractmethod
    def _logits(self, features: Tensor) -> Tensor:
        """Logits (B, C), once there is data; logits of classes without data are ignored."""
