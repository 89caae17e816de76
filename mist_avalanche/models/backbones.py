"""Pretrained backbones by name: timm's, and a tiny ViT whose weights come with the package."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    KeyError,
    ValueError,
    AttributeError,
    TypeError,
    OSError,
    EOFError,
)
EMBEDDED = "embedded"
EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"


@dataclass(frozen=True)
class BackboneDefaults:
    """What goes with a backbone.

    Args:
        timm_name: timm's name with the pinned pretraining tag; None when it is not timm's.
        image_size: pixels a side of its inputs.
        normalize: of its inputs, unless told otherwise: ``"pretrained"`` as it was pretrained, or
            ``"published"`` as in the published runs.
        mist: arguments of :class:`~mist_avalanche.MISTPlugin` that suit this backbone.
        mist_with_drift: those that differ where the strategy compensates drift.
        n_random_features: M of :class:`~mist_avalanche.strategies.RanPAC`.
        strategies: other arguments that suit it, by the strategy's name.
    """

    timm_name: str | None = None
    image_size: int = 224
    normalize: str = "pretrained"
    mist: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    mist_with_drift: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    n_random_features: int = 10000
    strategies: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def strategy_for(self, name: str) -> dict[str, Any]:
        """Arguments of one of our strategies."""
        own = {"n_random_features": self.n_random_features} if name == "ranpac" else {}
        return {**own, **self.strategies.get(name, {})}

    def mist_for(self, *, drift_compensation: bool) -> dict[str, Any]:
        """Arguments of MISTPlugin, for a strategy that compensates drift or not."""
        return {**self.mist, **(self.mist_with_drift if drift_compensation else {})}


# The one place for tuning defaults. Those of the embedded backbone were chosen on Omniglot small1,
# and projection_epochs and lr on SplitGlyphs too; the paper's, for ViT-B/16, are MISTPlugin's own.
# RanPAC's M keeps away from the number of training images: where both are equal, a small ridge
# fits them exactly and predicts badly.
DEFAULTS: Mapping[str, BackboneDefaults] = MappingProxyType(
    {
        EMBEDDED: BackboneDefaults(
            image_size=32,
            mist=MappingProxyType(
                {
                    "tune_on": "first",
                    "lr": 1e-2,
                    "tune_epochs": 100,
                    "projection_epochs": 30,
                    "batch_size": 64,
                    "view": {"flip": 0.0},  # mirrored letters are other letters
                }
            ),
            mist_with_drift=MappingProxyType({"tune_on": "every", "later_epochs": 30}),
            n_random_features=5000,
        ),
        "vit_base_patch16_224": BackboneDefaults(
            "vit_base_patch16_224.augreg_in21k", normalize="published"
        ),
    }
)


def backbone_defaults(name: str) -> BackboneDefaults:
    """Defaults for a backbone's name; a name without an entry of its own gets the paper's."""
    return DEFAULTS.get(name) or DEFAULTS.get(name.split(".")[0]) or BackboneDefaults()


def input_statistics(
    backbone: str | nn.Module,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std of each channel that a backbone was pretrained with; None for [0, 1].

    Args:
        backbone: a name of :func:`create_backbone`, or a model of timm.

    Raises:
        ValueError: nothing is known of it.
    """
    if backbone == EMBEDDED:
        return None
    if isinstance(backbone, str):
        name = (DEFAULTS[backbone].timm_name if backbone in DEFAULTS else None) or backbone
        config: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    else:
        config = getattr(backbone, "pretrained_cfg", None)
    if not config:
        raise ValueError(
            f"No mean and std are known for {str(backbone)[:60]}. Give a name or a model of timm, "
            "or normalize=(mean, std)."
        )
    values = config if isinstance(config, dict) else vars(config)
    return tuple(values["mean"]), tuple(values["std"])


def tiny_vit(num_classes: int = 0) -> VisionTransformer:
    """The embedded architecture: 0.5 M parameters, inputs (B, 3, 32, 32), features (B, 96).

    Three strided convolutions make 16 tokens; four blocks of width 96; mean pooling.
    """
    stem = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1),
        nn.GroupNorm(4, 24),
        nn.GELU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.GroupNorm(4, 48),
        nn.GELU(),
        nn.Conv2d(48, 96, 3, stride=2, padding=1),
    )
    return VisionTransformer(
        img_size=32,
        patch_size=1,
        num_classes=num_classes,
        global_pool="avg",
        class_token=False,
        embed_dim=96,
        depth=4,
        num_heads=3,
        embed_layer=partial(HybridEmbed, stem, proj=False),
    )


def create_backbone(name: str = EMBEDDED, weights: str | Path | None = None) -> nn.Module:
    """A pretrained backbone without classifier, images (B, 3, H, H) to features (B, D).

    Args:
        name: ``"embedded"`` or any name of ``timm.list_models()``. ``vit_base_patch16_224`` means
            the paper's ``vit_base_patch16_224.augreg_in21k``.
        weights: a file with the backbone's weights for machines that do not reach timm's hub:
            .npz, .pth or .safetensors, of ``"embedded"`` .safetensors; None takes the pretrained
            ones.

    Raises:
        FileNotFoundError: ``weights`` does not exist.
        ValueError: timm does not know the name, or the file is not of these kinds.
        OSError: timm's hub is out of reach, or has no such weights.
    """
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(
            f"No weights at {str(weights)!r}. Give the path of a .npz, .pth or .safetensors file."
        )
    if name == EMBEDDED:
        model = tiny_vit()
        file = Path(weights or EMBEDDED_WEIGHTS)
        if file.suffix != ".safetensors":
            raise ValueError(f"Expected a .safetensors file for 'embedded', got {str(file)!r}.")
        try:
            model.load_state_dict(load_file(file))
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{file} holds no weights of 'embedded' ({reason}).") from error
        return _module(model)
    timm_name = (DEFAULTS[name].timm_name if name in DEFAULTS else None) or name
    if not timm.is_model(timm_name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:12]}*")[:5]) or "none similar"
        raise ValueError(
            f"Unknown backbone {name!r}. Use 'embedded' or a name of timm.list_models() ({near})."
        )
    if weights is None:
        return _module(_from_hub(timm_name))
    return _module(_from_file(timm_name, Path(weights)))


def _from_hub(timm_name: str) -> Any:
    """Timm's model with its pretrained weights."""
    try:
        return timm.create_model(timm_name, pretrained=True, num_classes=0)
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(
            f"The weights of {timm_name} did not come from timm's hub "
            f"({str(error).splitlines()[0]}). Without a network, get the file elsewhere and give "
            "it as `weights` (--weights FILE): .npz, .pth or .safetensors."
        ) from error


def _from_file(timm_name: str, file: Path) -> Any:
    """Timm's model with the weights of a file."""
    try:
        if file.suffix == ".npz":  # in the layout of JAX; timm asks for every tensor in it
            return _pretrained(timm_name, {"file": str(file), "custom_load": True})
        state = timm.models.load_state_dict(str(file), weights_only=True)
        model = _pretrained(timm_name, {"state_dict": dict(state)})
        # timm passes over what a file lacks: such a tensor does not follow a change of the file.
        moved = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
        probe = _pretrained(timm_name, {"state_dict": moved}).state_dict()
        lost = [k for k, v in model.state_dict().items() if v.ndim and torch.equal(v, probe[k])]
        if lost:
            raise KeyError(f"{len(lost)} tensors are missing, the first {lost[0]}")
    except _UNREADABLE as error:
        raise ValueError(
            f"{file} holds no weights of {timm_name}: plain tensors in a .npz, .pth or "
            f".safetensors file ({str(error).splitlines()[0]})."
        ) from error
    return model


def _pretrained(timm_name: str, overlay: Mapping[str, Any]) -> Any:
    """Timm's model with weights from elsewhere than its hub."""
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(
            timm_name, pretrained=True, num_classes=0, pretrained_cfg_overlay=dict(overlay)
        )
    model.pretrained_cfg.pop("state_dict", None)
    return model


def _module(model: Any) -> nn.Module:
    """What timm, which is not typed, returns is a module."""
    result: nn.Module = model
    return result
