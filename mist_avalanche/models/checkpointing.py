"""Hooks and gradient checkpointing: blocks run again while gradients pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def attach_again(
    model: nn.Module, features: Tensor, attach: Callable[[], Callable[[], Any]]
) -> None:
    """Attach something for the backward pass too, where the model checkpoints its blocks.

    Args:
        model: of timm.
        features: what it has just given, with it attached.
        attach: attaches it once more, and returns what undoes that.
    """
    if not features.requires_grad or not getattr(model, "grad_checkpointing", False):
        return

    def again(_gradient: Tensor) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(attach())

    output: Any = features
    output.register_hook(again)
