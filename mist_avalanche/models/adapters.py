"""Modules that adapt a pretrained backbone, and the classifier that is trained with them.

``module(backbone, images)`` returns the features of the adapted backbone. Hooks attach the module
for this pass only; the backbone does not change. Sources: AdaptFormer (arXiv 2205.13535),
SSF (arXiv 2210.08823), VPT (arXiv 2203.12119), APER (arXiv 2303.07338).
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils import check_integer, check_rate
from .backbone_with_head import UNSEEN, BackboneWithHead
from .vit import Hooks, after, before, run_with, vit_blocks


class AdaptingModule(nn.Module, ABC):
    """Parameters that change what timm's VisionTransformer computes.

    They have the dtype and device of the ViT that they are created for. Other kinds of backbone
    raise a ValueError.
    """

    @abstractmethod
    def hooks(self, vit: Any) -> Hooks:
        """Register the hooks that change a ViT, and yield their handles."""

    def forward(self, vit: nn.Module, x: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W) from the adapted ViT."""
        return run_with(self.hooks(vit), vit, x)


class Adapter(AdaptingModule):
    """AdaptFormer: y = h + mlp(norm2(h)) + 0.1 · up(relu(down(h))) in every block of a ViT.

    h (B, n, D) is the block's residual stream after attention, not normalised. down (D to r) and
    up (r to D) are linear with bias. Their output is added after LayerScale and drop path, and is 0
    at first: down from U(-1/√D, 1/√D), all else zero. ViT-B/16 and r = 64: 1,189,632 parameters.

    Args:
        vit: timm's VisionTransformer.
        bottleneck: r.
        dropout: dropout rate of relu's output during training.
    """

    SCALE = 0.1

    def __init__(self, vit: Any, *, bottleneck: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        blocks, r = vit_blocks(vit), check_integer("bottleneck", bottleneck, 1)
        self.dropout = nn.Dropout(check_rate("dropout", dropout, "[0, 1)"))
        self.down = nn.ModuleList(nn.Linear(vit.embed_dim, r) for _ in blocks)
        self.up = nn.ModuleList(nn.Linear(r, vit.embed_dim) for _ in blocks)
        for name, parameter in self.named_parameters():
            if not (name.startswith("down") and name.endswith("weight")):  # these keep torch's
                nn.init.zeros_(parameter)
        self.to(next(vit.parameters()))

    def hooks(self, vit: Any) -> Hooks:
        """Record the stream before norm2, and add to the output of the MLP branch."""
        stream: list[Tensor] = []  # of the current block

        def note(h: Tensor) -> Tensor:
            stream.append(h)
            return h

        def add(i: int, x: Tensor) -> Tensor:
            return x + self.SCALE * self.up[i](self.dropout(self.down[i](stream.pop()).relu()))

        for i, block in enumerate(vit_blocks(vit)):
            yield before(block.norm2, note)
            yield after(block.drop_path2, partial(add, i))


class ScaleShift(AdaptingModule):
    """SSF: output · γ + β per channel, after each layer of a ViT.

    The layers are the patch embedding (before its own norm), norm1, attn.qkv, attn.proj, norm2,
    mlp.fc1 (before the activation) and mlp.fc2 of each block, and the final norm. γ starts from
    N(1, 0.02²) and β from N(0, 0.02²), not from the identity. 205,824 parameters for ViT-B/16.
    """

    IN_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.scale, self.shift = nn.ParameterDict(), nn.ParameterDict()
        for key, layer in self._layers(vit):
            width = getattr(layer, "out_features", vit.embed_dim)
            self.scale[key] = nn.Parameter(torch.empty(width).normal_(1, 0.02))
            self.shift[key] = nn.Parameter(torch.empty(width).normal_(0, 0.02))
        self.to(next(vit.parameters()))

    def _layers(self, vit: Any) -> Iterator[tuple[str, Any]]:
        """Layers in the order of the forward pass, with their names (``/`` replaces dots)."""
        blocks = range(len(vit_blocks(vit)))
        names = [f"blocks.{i}.{name}" for i in blocks for name in self.IN_BLOCK]
        # with mean pooling, the final norm follows the pooling
        final = "fc_norm" if isinstance(vit.norm, nn.Identity) else "norm"
        for name in ("patch_embed", *names, final):
            yield name.replace(".", "/"), vit.get_submodule(name)

    def hooks(self, vit: Any) -> Hooks:
        """Scale and shift the output of each layer."""

        def change(key: str, x: Tensor) -> Tensor:
            return x * self.scale[key] + self.shift[key]

        for key, layer in self._layers(vit):
            if key == "patch_embed" and hasattr(layer, "norm"):
                yield before(layer.norm, partial(change, key))
            else:
                yield after(layer, partial(change, key))


class PromptTokens(AdaptingModule):
    """VPT: n tokens after those of the image, without position embedding, initialised to zero.

    Shallow: one set (1, n, D), added before the first block and removed before the final norm.
    Deep: one set per block (depth, n, D), added before the block and removed after it.

    Args:
        vit: timm's VisionTransformer.
        n_prompts: n.
        deep: whether there is one set per block.
    """

    def __init__(self, vit: Any, *, n_prompts: int = 5, deep: bool = False) -> None:
        super().__init__()
        blocks, n, self.deep = vit_blocks(vit), check_integer("n_prompts", n_prompts, 1), deep
        self.prompts = nn.Parameter(torch.zeros(len(blocks) if deep else 1, n, vit.embed_dim))
        self.to(next(vit.parameters()))

    def hooks(self, vit: Any) -> Hooks:
        """Append the tokens, and remove them again."""

        def append(tokens: Tensor, x: Tensor) -> Tensor:
            return torch.cat([x, tokens.to(x.dtype).expand(len(x), -1, -1)], dim=1)

        def cut(x: Tensor) -> Tensor:
            return x[:, : -self.prompts.shape[1]]

        for block, tokens in zip(vit_blocks(vit), self.prompts, strict=self.deep):
            yield before(block, partial(append, tokens))
            yield after(block, cut) if self.deep else before(vit.norm, cut)


class FineTuned(nn.Module):
    """A copy of a backbone of any kind, all parameters of which may be trained."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)

    def forward(self, _backbone: nn.Module, x: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W) from the copy."""
        return self.backbone(x)


ADAPTERS: Mapping[str, Callable[..., nn.Module]] = {
    "adapter": Adapter,
    "ssf": ScaleShift,
    "vpt_deep": partial(PromptTokens, deep=True),
    "vpt_shallow": PromptTokens,
    "finetune": FineTuned,
}


class AdaptedBackbone(BackboneWithHead):
    """A backbone and its adapters; concatenates features of the plain and the adapted backbones.

    Args:
        backbone: images (B, C, H, W) to features (B, D).
        head: features to logits (B, C).
        new_adapter: creates an adapter for a backbone, or raises a ValueError.
        plain: whether features of the plain backbone come first; always True without adapters.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        new_adapter: Callable[[nn.Module], nn.Module],
        *,
        plain: bool,
    ) -> None:
        super().__init__(backbone, head)
        self.adapters = nn.ModuleList()
        self.plain, self._new_adapter = plain, new_adapter
        self.new_adapter()  # refuses a backbone of the wrong kind before anything is trained

    def new_adapter(self) -> Any:
        """Create a new adapter, which is not used yet."""
        return self._new_adapter(self.backbone)

    def use(self, adapter: nn.Module) -> None:
        """Add a trained adapter.

        A fine-tuned copy replaces the backbone's weights if these are not needed.
        """
        if isinstance(adapter, FineTuned) and not self.plain:
            self.backbone.load_state_dict(adapter.backbone.state_dict())
        else:
            self.adapters.append(adapter.requires_grad_(False).eval())

    @property
    def parts(self) -> range:
        """Indices of the adapters, preceded by -1 if the plain backbone is included."""
        n = len(self.adapters)
        return range(-1 if self.plain or not n else 0, n)

    def features_of(self, part: int, x: Tensor) -> Tensor:
        """Features (B, D) of images from one of :attr:`parts`."""
        source = self.backbone if part < 0 else partial(self.adapters[part], self.backbone)
        return self.run_backbone(source, x)

    def features(self, x: Tensor) -> Tensor:
        """Features (B, P D) of images from all P parts."""
        return torch.cat([self.features_of(part, x) for part in self.parts], dim=1)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Create as many adapters as the state has, then load them."""
        start = f"{prefix}adapters."
        numbers = {n[len(start) :].split(".")[0] for n in state_dict if n.startswith(start)}
        adapters = nn.ModuleList(self.new_adapter() for _ in numbers)
        self.adapters = adapters.requires_grad_(False).eval()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class CosineHead(nn.Module):
    """Logits σ · cos(f, V_c) of some classes, used while an adapter is trained.

    V starts from U(-1/√D, 1/√D) and σ from 1. Both are trained. There is no bias.

    Args:
        n_features: D.
        classes: labels, in the order of V's rows.
    """

    classes: Tensor

    def __init__(self, n_features: int, classes: Sequence[int]) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_features)
        self.weight = nn.Parameter(torch.empty(len(classes), n_features).uniform_(-bound, bound))
        self.sigma = nn.Parameter(torch.ones(1))
        self.register_buffer("classes", torch.tensor(classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D) by label; -1000 for labels without a row."""
        cosines = F.normalize(features, dim=1) @ F.normalize(self.weight, dim=1).T
        logits = features.new_full((len(features), int(self.classes.max()) + 1), UNSEEN)
        return logits.index_copy(1, self.classes, (self.sigma * cosines).to(logits.dtype))
