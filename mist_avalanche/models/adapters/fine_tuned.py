"""Another set of values for all parameters of a model."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from .base import AdaptingModule


class FineTuned(AdaptingModule):
    """A copy of a model's parameters and buffers, which take the place of its own while attached.

    So a fine-tuned model and the one that it started from are one module, with one set of names.
    Any model will do.

    Args:
        model: whose present values are copied.
        seed: has no part in it; nothing is drawn.

    Attributes:
        values: the parameters by name, with ``/`` for its dots.
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.settings = {}
        self.values, self.kept = nn.ParameterDict(), nn.Module()
        for name, parameter in model.named_parameters():
            copied = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            self.values[name.replace(".", "/")] = copied
        for name, buffer in model.named_buffers():
            self.kept.register_buffer(name.replace(".", "/"), buffer.detach().clone())

    def _attach(self, model: Any, stack: ExitStack) -> None:
        own: dict[int, Tensor] = {}
        pairs = (
            (dict(model.named_parameters()), dict(self.values)),
            (dict(model.named_buffers()), dict(self.kept.named_buffers())),
        )
        for theirs, ours in pairs:
            if {n.replace(".", "/"): t.shape for n, t in theirs.items()} != {
                n: t.shape for n, t in ours.items()
            }:
                raise ValueError(
                    f"The fine-tuned parameters are of another model than this "
                    f"{type(model).__name__}. Make them of it."
                )
            own |= {id(t): ours[n.replace(".", "/")] for n, t in theirs.items()}
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        stack.callback(tensors.__setitem__, name, tensor)
                        tensors[name] = own[id(tensor)]
