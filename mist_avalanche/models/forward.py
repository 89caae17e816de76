"""Images to features: in which precision, how many at a time, compiled or not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..utils import check_choice, check_integer
from .classifier import FeatureExtractor
from .defaults import PRECISIONS


def autocast_of(precision: str, x: Tensor) -> torch.autocast:
    """The context in which a backbone runs on ``x``: autocast where the precision is "bf16"."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16")


class Forward:
    """How a backbone is run.

    Args:
        precision: ``"32"``: in the dtype of the weights. ``"bf16"``: autocast; the weights, the
            features and all that is computed from them stay in float32.
        chunk_size: images that pass through the backbone at a time where gradients are needed; only
            the activations of one chunk are in memory, at the price of a second forward pass (Chen
            et al., arXiv 1604.06174). None for all. Features are those of one large batch where no
            image depends on others: not with BatchNorm in training mode.
        compile: use ``torch.compile``. If it fails there is a warning, and the backbone runs as it
            is.
    """

    def __init__(
        self, precision: str = "32", chunk_size: int | None = None, *, compile: bool = False
    ) -> None:
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.chunk_size = None if chunk_size is None else check_integer("chunk_size", chunk_size, 1)
        self.compile = compile
        self._compiled: tuple[Any, Callable[[Tensor], Tensor]] | None = None

    def __call__(self, source: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Features (B, D) of x (B, ...), in float32 or better.

        Args:
            source: a backbone, a :class:`~.classifier.FeatureExtractor`, or any other function.
            x: the batch.
        """
        chunks = torch.split(x, self.chunk_size or len(x))
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._features(source, chunk) for chunk in chunks])
        return torch.cat(
            [checkpoint(self._features, source, chunk, use_reentrant=False) for chunk in chunks]
        )

    def _features(self, source: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Features of one chunk."""
        with autocast_of(self.precision, x):
            features = self._run_compiled(source, x) if self.compile else source(x)
        features = features.flatten(1)
        return features.float() if self.precision == "bf16" else features

    def _run_compiled(self, source: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``source(x)``, compiled if possible."""
        key = (source.model, source.classifier) if isinstance(source, FeatureExtractor) else source
        if self._compiled is None or self._compiled[0] != key:
            self._compiled = key, _compile(source)
        try:
            return self._compiled[1](x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of many kinds: no compiler, a model that it cannot take
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile failed, going on without it: {reason}", stacklevel=2)
            self.compile, self._compiled = False, None
            return source(x)


def _compile(source: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A compiled function that gives the features.

    A whole model is compiled with the same stand-in for its classifier at every call, so that
    nothing is compiled again where the classifier grows, and names of parameters stay as they are.
    """
    if not isinstance(source, FeatureExtractor):
        compiled: Callable[[Tensor], Tensor] = torch.compile(source)
        return compiled
    stand_in, model = _StandIn(), torch.compile(source.model)

    def run(x: Tensor) -> Tensor:
        classifier = source.model.get_submodule(source.classifier)
        source.model.set_submodule(source.classifier, stand_in)
        try:
            model(x)
        finally:
            source.model.set_submodule(source.classifier, classifier)
        return stand_in.seen.pop()

    return run


class _StandIn(nn.Module):
    """Takes the place of a classifier and keeps its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        self.seen.append(x)
        return x
