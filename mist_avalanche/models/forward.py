"""Runs a backbone: precision, chunks of a batch, compilation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..utils import check_choice, check_integer
from .classifier import FeatureExtractor
from .defaults import PRECISIONS

Source = Callable[[Tensor], Tensor]


class Forward:
    """How a backbone is run.

    Args:
        precision: ``"32"``: in the dtype of the weights. ``"bf16"``: autocast; the weights, the
            features and everything computed from them stay in float32.
        chunk_size: images that pass through the backbone at a time when gradients are needed. Only
            the activations of one chunk are in memory, at the cost of a second forward pass (Chen
            et al., arXiv 1604.06174). None for all. Features equal those of one large batch if no
            image depends on others, which excludes BatchNorm in training mode.
        compile: use ``torch.compile``.
    """

    def __init__(
        self, precision: str = "32", chunk_size: int | None = None, *, compile: bool = False
    ) -> None:
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.chunk_size = None if chunk_size is None else check_integer("chunk_size", chunk_size, 1)
        self.compile = compile
        self._compiled: tuple[Source, Source] | None = None  # a source and its compiled form

    def __call__(self, source: Source, x: Tensor) -> Tensor:
        """Features (B, D) of x (B, ...), in float32 or better.

        Args:
            source: a backbone, a :class:`~.classifier.FeatureExtractor`, or any other function.
            x: the batch.
        """
        if self.compile:
            if self._compiled is None or self._compiled[0] != source:
                self._compiled = source, _compile(source)
            source = self._compiled[1]
        run: Callable[..., Tensor] = self._features
        chunks = torch.split(x, self.chunk_size or len(x))
        if len(chunks) > 1 and torch.is_grad_enabled():
            run = partial(checkpoint, run, use_reentrant=False)
        return torch.cat([run(source, chunk) for chunk in chunks])

    def _features(self, source: Source, x: Tensor) -> Tensor:
        """Features of one chunk."""
        bf16 = self.precision == "bf16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            features = source(x)
        if not isinstance(features, Tensor) or features.ndim < 2:
            kind = f"{type(features).__name__}{[*getattr(features, 'shape', '')] or ''}"
            raise TypeError(f"The backbone returns a {kind}. It must return features (B, D).")
        return (features.float() if bf16 else features).flatten(1)

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy, without the compiled backbone: the backbone is copied, too."""
        return {**vars(self), "_compiled": None}


def _compile(source: Source) -> Source:
    """A compiled function that returns the features.

    A whole model is compiled with the same stand-in for its classifier at every call, so that a
    growing classifier causes no recompilation, and parameter names do not change.
    """
    if not isinstance(source, FeatureExtractor):
        return torch.compile(source)
    seen: list[Tensor] = []
    stand_in, model = nn.Identity(), torch.compile(source.model)
    stand_in.register_forward_hook(lambda _module, _inputs, features: seen.append(features))

    def run(x: Tensor) -> Tensor:
        classifier = source.model.get_submodule(source.classifier)
        source.model.set_submodule(source.classifier, stand_in)
        try:
            model(x)
        finally:
            source.model.set_submodule(source.classifier, classifier)
        return seen.pop()

    return run
