"""A ViT with prompts and a classifier, seen as one model from images to logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.checks import check_choice
from ..._support.progress import images_pass
from ..defaults import PRECISIONS
from ..heads import BackboneWithHead
from ..precision import autocast_of
from .attachment import Attachment
from .base import Attached, PromptModule, check_blocks


class PromptedViT(BackboneWithHead):
    """Images to logits, by two passes through one frozen ViT.

    The first pass, without prompts and without gradient, gives the query: the ViT's features. The
    second has the prompts that belong to the query. Features are the mean of the outputs at the
    prompt tokens where there are any, and else the ViT's own. Prompts are attached by hooks that
    rest outside of :meth:`features`: the ViT's own names, and what it computes when it is called by
    itself, stay what they are. ``train()`` leaves the ViT in evaluation mode.

    Args:
        backbone: timm's VisionTransformer without classifier, or a model with its parts.
        prompts: of the ViT's width, with blocks that it has.
        head: features (B, D) to logits (B, C).
        precision: of the ViT: ``"32"``, or ``"bf16"`` (autocast).

    Attributes:
        attached: what the prompts were for the last batch.

    Raises:
        ValueError: the backbone has no blocks with ``attn.qkv``, or not these blocks.
    """

    def __init__(
        self, backbone: nn.Module, prompts: PromptModule, head: nn.Module, precision: str = "32"
    ) -> None:
        depth = vit_depth(backbone)
        check_blocks("blocks", prompts.blocks, depth)
        super().__init__(backbone, head)
        self.prompts = prompts
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.attached: Attached | None = None
        self._attachment = Attachment(backbone, prompts.blocks)
        backbone.eval()

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Logits (B, C) of images; their queries (B, D) are computed where they are not given."""
        logits: Tensor = self.head(self.features(x, query))
        return logits

    def query(self, x: Tensor) -> Tensor:
        """Features (B, D) without prompts and without gradient."""
        with torch.no_grad(), self._computing(x):
            features: Tensor = self.backbone(x)
        return features.flatten(1).to(_dtype_of(self.backbone))

    def features(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Features (B, D) with prompts; what was attached is :attr:`attached` afterwards."""
        query = self.query(x) if query is None else query.to(x.device)
        attached = self.attached = self.prompts(query)
        with self._attachment.of(attached), self._computing(x):
            features = self._read_out(x, attached)
        self._attachment.keep_for_backward(features, attached)
        return features.flatten(1).to(query.dtype)

    def _read_out(self, x: Tensor, attached: Attached) -> Tensor:
        vit: Any = self.backbone
        if attached.tokens is None:
            features: Tensor = vit(x)
            return features
        first, n = vit.num_prefix_tokens, attached.tokens.shape[1]
        tokens: Tensor = vit.fc_norm(vit.forward_features(x)[:, first : first + n].mean(1))
        return tokens

    @contextmanager
    def _computing(self, x: Tensor) -> Iterator[None]:
        """The ViT in evaluation mode, at the precision that was asked for."""
        images_pass(len(x), gradient=torch.is_grad_enabled())
        self.backbone.eval()
        with autocast_of(self.precision, x):
            yield

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which have no part in a graph of gradients."""
        return {**vars(self), "attached": None}

    def train(self, mode: bool = True) -> PromptedViT:
        """As in torch, but for the ViT."""
        super().train(mode)
        self.backbone.eval()
        return self


def vit_depth(model: nn.Module) -> int:
    """The number of blocks of a ViT that prompts can be attached to.

    Raises:
        ValueError: it has no blocks with ``attn.qkv``.
    """
    blocks = getattr(model, "blocks", None)
    parts = ("forward_features", "norm_pre", "fc_norm", "num_prefix_tokens")
    attentions = [getattr(b, "attn", None) for b in blocks] if blocks is not None else []
    whole = attentions and all(isinstance(getattr(a, "qkv", None), nn.Module) for a in attentions)
    if not whole or not all(hasattr(model, part) for part in parts):
        raise ValueError(
            f"Prompts are attached to a VisionTransformer of timm, to blocks[i].attn.qkv, and "
            f"{type(model).__name__} has none. Use a backbone such as vit_base_patch16_224, "
            "deit_tiny_patch16_224 or 'embedded'."
        )
    return len(attentions)


def _dtype_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
