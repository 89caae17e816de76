"""Pretrained backbones by name: timm's, and a tiny ViT whose weights come with the package."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..utils import check_integer
from .defaults import DEFAULTS, EMBEDDED

EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"
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


def create_backbone(
    name: str = EMBEDDED, weights: str | Path | None = None, *, image_size: int | None = None
) -> nn.Module:
    """A pretrained backbone without classifier, images (B, 3, H, H) to features (B, D).

    Args:
        name: ``"embedded"`` or any name of ``timm.list_models()``. ``vit_base_patch16_224`` means
            the paper's ``vit_base_patch16_224.augreg_in21k``.
        weights: a file with the backbone's weights, for machines that cannot reach timm's hub:
            .npz, .pth or .safetensors (``"embedded"``: .safetensors); None for the pretrained ones.
        image_size: H; None for that of the pretraining. Position embeddings of a ViT are resampled
            by timm, which costs accuracy; MIST restores part of it.

    Raises:
        FileNotFoundError: ``weights`` does not exist.
        ValueError: timm does not know the name, the file is not of these kinds, or the backbone
            has no such size.
        OSError: timm's hub is out of reach, or has no such weights.
    """
    timm_name, size = check_backbone(name, weights, image_size)
    model: nn.Module
    if timm_name is None:
        model, file = tiny_vit(), Path(weights or EMBEDDED_WEIGHTS)
        try:
            model.load_state_dict(load_file(file))
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{file} holds no weights of 'embedded' ({reason}).") from error
    elif weights is None:
        model = _from_hub(timm_name, size)
    else:
        model = _from_file(timm_name, Path(weights), size)
    return model


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


def input_statistics(
    backbone: str | nn.Module,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std per channel that a backbone was pretrained with; None for images in [0, 1].

    Args:
        backbone: a name of :func:`create_backbone`, or a model of timm.

    Raises:
        ValueError: they are not known.
    """
    if backbone == EMBEDDED:
        return None
    if isinstance(backbone, str):
        name = _timm_name(backbone)
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


def check_backbone(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> tuple[str | None, dict[str, int]]:
    """Timm's name of a backbone, None for ``"embedded"``, and timm's argument for another size.

    Raises:
        FileNotFoundError: as :func:`create_backbone`, before anything is fetched or read.
        ValueError: likewise.
    """
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(
            f"No weights at {str(weights)!r}. Give the path of a .npz, .pth or .safetensors file."
        )
    if name == EMBEDDED:
        if image_size not in (None, DEFAULTS[EMBEDDED].image_size):
            raise ValueError(f"'embedded' takes images of 32 pixels, not of {image_size}.")
        if weights is not None and Path(weights).suffix != ".safetensors":
            raise ValueError(f"Expected a .safetensors file for 'embedded', got {str(weights)!r}.")
        return None, {}
    timm_name = _timm_name(name)
    if not timm.is_model(timm_name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 5, 0.0))
        raise ValueError(
            f"Unknown backbone {name!r}. Use 'embedded' or a name of timm.list_models() ({near})."
        )
    return timm_name, _size_argument(timm_name, image_size)


def _timm_name(name: str) -> str:
    """Timm's name, with the tag of the pretraining where the defaults give one."""
    return (DEFAULTS[name].timm_name if name in DEFAULTS else None) or name


@cache  # it makes a model, and several runs check the same
def _size_argument(timm_name: str, image_size: int | None) -> dict[str, int]:
    """Timm's argument for another size; empty for the usual one, and for models that take any."""
    config = timm.get_pretrained_cfg(timm_name)
    usual = config.input_size[-1] if config else 224
    if image_size is None or image_size == usual or not (config and config.fixed_input_size):
        return {}
    size = {"img_size": check_integer("image_size", image_size, 1)}
    try:
        made = timm.create_model(timm_name, num_classes=0, **size)
        if getattr(getattr(made, "patch_embed", None), "num_patches", 1) < 1:
            raise ValueError("less than one patch")
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{timm_name} cannot be made for {image_size} pixels ({str(error)[:120]}). Omit "
            f"`image_size` (--image-size) for {usual}, or use a multiple of its patches."
        ) from error
    return size


def _from_hub(timm_name: str, size: Mapping[str, int]) -> Any:
    """Timm's model with its pretrained weights."""
    try:
        return timm.create_model(timm_name, pretrained=True, num_classes=0, **size)
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(
            f"The weights of {timm_name} did not come from timm's hub "
            f"({str(error).splitlines()[0]}). Without a network, get the file elsewhere and give "
            "it as `weights` (--weights FILE): .npz, .pth or .safetensors."
        ) from error


def _from_file(timm_name: str, file: Path, size: Mapping[str, int]) -> Any:
    """Timm's model with the weights of a file."""
    try:
        if file.suffix == ".npz":  # in the layout of JAX; timm needs every tensor in it
            return _pretrained(timm_name, {"file": str(file), "custom_load": True}, size)
        state = timm.models.load_state_dict(str(file), weights_only=True)
        model = _pretrained(timm_name, {"state_dict": dict(state)}, size)
        # timm ignores what a file lacks; such a tensor does not follow a change of the file
        changed = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
        other = _pretrained(timm_name, {"state_dict": changed}, size).state_dict()
        lost = [k for k, v in model.state_dict().items() if v.ndim and torch.equal(v, other[k])]
        if lost:
            raise KeyError(f"{len(lost)} tensors are missing, the first {lost[0]}")
    except _UNREADABLE as error:
        raise ValueError(
            f"{file} holds no weights of {timm_name}: plain tensors in a .npz, .pth or "
            f".safetensors file ({str(error).splitlines()[0]})."
        ) from error
    return model


def _pretrained(timm_name: str, overlay: Mapping[str, Any], size: Mapping[str, int]) -> Any:
    """Timm's model with weights from elsewhere than its hub."""
    source = {"pretrained_cfg_overlay": dict(overlay), **size}
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(timm_name, pretrained=True, num_classes=0, **source)
    model.pretrained_cfg.pop("state_dict", None)
    return model
