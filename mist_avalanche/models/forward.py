"""Images to features: in which precision, how many at a time, compiled or not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._support.checks import check_choice, check_integer
from .._support.progress import images_pass
from .defaults import PRECISIONS
from .features import FeatureExtractor
from .precision import autocast_of


class Forward:
    """How a backbone is run.

    Args:
        precision: ``"32"``: in the dtype of the weights. ``"bf16"``: autocast, with the weights,
            the features that come out, and all that is computed from them in float32.
        chunk_size: images that pass through the backbone at a time where gradients are needed; the
            activations of one chunk are in memory at once, for a second forward pass (Chen et al.,
            arXiv 1604.06174). None for all. Features are as of one large batch where no image
            depends on others: not with BatchNorm in training mode.
        compile: use ``torch.compile``, once for training and once for evaluation mode. Where that
            fails there is a warning, and the backbone runs as it is.
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
            source: a backbone, a model seen from its features, or what else makes them.
            x: the batch.
        """
        images_pass(len(x), gradient=torch.is_grad_enabled())
        chunks = torch.split(x, self.chunk_size or len(x))
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._features(source, chunk) for chunk in chunks])
        return torch.cat(
            [checkpoint(self._features, source, chunk, use_reentrant=False) for chunk in chunks]
        )

    def _features(self, source: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Features of one chunk."""
        with autocast_of(self.precision, x):
            features = self._compiled_run(source, x) if self.compile else source(x)
        features = features.flatten(1)
        return features.float() if self.precision == "bf16" else features

    def _compiled_run(self, source: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """As ``source(x)``, compiled; as it is where that fails."""
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

    In a whole model the same stand-in takes the classifier's place at every call. So nothing is
    compiled anew where the classifier grows, and the model's own names stay what they are.
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
    """In the classifier's place: keeps what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """What came in."""
        self.seen.append(x)
        return x
