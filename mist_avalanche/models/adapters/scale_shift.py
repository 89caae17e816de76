"""SSF: scales and shifts of a frozen ViT's features (Lian et al., arXiv 2210.08823)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .base import AdaptingModule, blocks_of_vit, check_fits, generator, like

_STD = 0.02
_IN_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


class ScaleShift(AdaptingModule):
    """Output · γ + β, a channel at a time, behind each layer of a ViT.

    The layers are the patch embedding (before a norm of its own), in each block norm1, attn.qkv,
    attn.proj, norm2, mlp.fc1 (before the activation) and mlp.fc2, and the final norm. γ starts from
    N(1, 0.02²) and β from N(0, 0.02²): not as the identity. 205,824 parameters for ViT-B/16.

    Args:
        vit: a VisionTransformer of timm.
        seed: of the start.

    Attributes:
        scale, shift: γ and β by the name of the layer, with ``/`` for its dots.

    Raises:
        ValueError: a backbone of another kind.
    """

    def __init__(self, vit: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.settings = {}
        self.depth = len(blocks_of_vit(vit))
        numbers = generator(seed)
        self.scale, self.shift = nn.ParameterDict(), nn.ParameterDict()
        for name, width in _layers(vit).items():
            scale, shift = _STD * torch.randn(2, width, generator=numbers)
            key = name.replace(".", "/")
            self.scale[key], self.shift[key] = nn.Parameter(1 + scale), nn.Parameter(shift)
        self.to(like(vit))

    def _attach(self, model: Any, stack: ExitStack) -> None:
        check_fits(self, model, self.depth)
        for name in _layers(model):
            key, layer = name.replace(".", "/"), model.get_submodule(name)
            own_norm = getattr(layer, "norm", None) if name == "patch_embed" else None
            hook = _Scaled(self.scale[key], self.shift[key])
            if own_norm is None or isinstance(own_norm, nn.Identity):
                stack.callback(layer.register_forward_hook(hook.after).remove)
            else:
                stack.callback(own_norm.register_forward_pre_hook(hook.before).remove)


class _Scaled:
    """The hooks of one layer."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        self.scale, self.shift = scale, shift

    def after(self, _module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        return out * self.scale + self.shift

    def before(self, _module: nn.Module, inputs: Any) -> tuple[Tensor]:
        return (inputs[0] * self.scale + self.shift,)


def _layers(vit: Any) -> dict[str, int]:
    """Channels of each layer by name, in the order of the ViT."""
    found = {"patch_embed": int(vit.embed_dim)}
    for i in range(len(vit.blocks)):
        for part in _IN_BLOCK:
            name = f"blocks.{i}.{part}"
            try:
                layer = vit.get_submodule(name)
            except AttributeError as error:
                raise ValueError(
                    f"SSF scales the output of {name}, which {type(vit).__name__} has not. Use "
                    "another adapter, or a plain VisionTransformer of timm."
                ) from error
            found[name] = int(getattr(layer, "out_features", vit.embed_dim))
    # Where patches are averaged, the final norm comes behind that.
    final = "fc_norm" if isinstance(vit.norm, nn.Identity) else "norm"
    return {**found, final: int(vit.embed_dim)}
