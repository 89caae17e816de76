"""Pretrained backbones by name: timm's, and a tiny ViT whose weights come with the package."""

import difflib
import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..utils import check_integer
from .defaults import DEFAULTS, EMBEDDED

log = logging.getLogger(__name__)
EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"


def create_backbone(
    name: str = EMBEDDED, weights: str | Path | None = None, *, image_size: int | None = None
) -> nn.Module:
    """A pretrained backbone without classifier, images (B, 3, H, H) to features (B, D).

    Args:
        name: ``"embedded"`` or any name of ``timm.list_models()``. ``vit_base_patch16_224`` means
            the paper's ``vit_base_patch16_224.augreg_in21k``.
        weights: a file with the backbone's weights, for machines that cannot reach timm's hub:
            .npz, .pth or .safetensors; None for the pretrained ones.
        image_size: H; None for that of the pretraining. Position embeddings of a ViT are resampled
            by timm, which costs accuracy; MIST restores part of it.

    Raises:
        FileNotFoundError: ``weights`` does not exist.
        ValueError: timm does not know the name, or the file lacks weights of the backbone.
        OSError: timm's hub is out of reach, or has no such weights.
    """
    model: nn.Module
    timm_name, size = check_backbone(name, weights, image_size)
    if timm_name is None:
        model, weights = tiny_vit(), weights or EMBEDDED_WEIGHTS
    else:
        try:
            model = timm.create_model(timm_name, pretrained=weights is None, num_classes=0, **size)
        except (OSError, ValueError, RuntimeError) as error:
            raise OSError(
                f"{timm_name} did not come from timm's hub ({str(error).splitlines()[0]}). Without "
                "a network, get the file of its weights elsewhere and give it as `weights` "
                "(--weights FILE): .npz, .pth or .safetensors."
            ) from error
    if weights is not None:
        try:
            _load(model, Path(weights))
        except Exception as error:  # of many kinds, as files differ
            raise ValueError(
                f"{weights} holds no weights of {name} ({' '.join(str(error).split())[:300]}). "
                "Give its plain tensors in a .npz, .pth or .safetensors file."
            ) from error
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
    config: Any = getattr(backbone, "pretrained_cfg", None)
    if isinstance(backbone, str) and timm.is_model(name := _timm_name(backbone)):
        config = getattr(timm.get_pretrained_cfg(name), "__dict__", None)
    if not config:
        raise ValueError(
            f"No mean and std are known for {str(backbone)[:60]}. Give a name or a model of timm, "
            "or normalize=(mean, std)."
        )
    return tuple(config["mean"]), tuple(config["std"])


def check_backbone(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> tuple[str | None, dict[str, int]]:
    """Timm's name of a backbone, None for ``"embedded"``, and timm's argument for another size.

    Errors are those of :func:`create_backbone`, before anything is fetched or read.
    """
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(
            f"No weights at {str(weights)!r}. Give the path of a .npz, .pth or .safetensors file."
        )
    if name == EMBEDDED:
        if image_size not in (None, DEFAULTS[EMBEDDED].image_size):
            raise ValueError(f"'embedded' takes images of 32 pixels, not of {image_size}.")
        return None, {}
    timm_name = _timm_name(name)
    if not timm.is_model(timm_name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 5, 0.0))
        raise ValueError(
            f"Unknown backbone {name!r}. Use 'embedded' or a name of timm.list_models() ({near})."
        )
    config = timm.get_pretrained_cfg(timm_name)
    takes_any = not (config and config.fixed_input_size)
    if takes_any or image_size in (None, config.input_size[-1]):
        return timm_name, {}
    return timm_name, {"img_size": check_integer("image_size", image_size, 1)}


def _timm_name(name: str) -> str:
    """Timm's name, with the tag of the pretraining where the defaults give one."""
    return (DEFAULTS[name].timm_name if name in DEFAULTS else None) or name


def _load(model: Any, file: Path) -> None:
    """Load the weights of a file; a tensor that it lacks is an error."""
    with file.open("rb") as opened:
        begin = opened.read(100).lstrip(b"\xef\xbb\xbf \r\n")
    for kind, is_it in (
        ("it is empty; get it again", not begin),
        ("it is a pointer of Git LFS; `git lfs pull` gets the file", b"git-lfs" in begin),
        ("it is a web page; download the file that it links to", begin.startswith(b"<")),
        ("it is a safetensors file; name it so", begin[8:9] == b"{" and file.suffix == ".pth"),
    ):
        if is_it:
            raise ValueError(kind)
    if file.suffix == ".npz":  # in the layout of JAX; timm needs every tensor in it
        model.load_pretrained(str(file))
        return
    try:
        state = timm.models.load_state_dict(str(file), weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        if "weights_only" not in str(error):
            raise
        reason = "it is another kind of file, or a whole model, whose state_dict() is to be saved"
        raise ValueError(reason) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}; save a model's state_dict()")
    models = [name for name, value in state.items() if isinstance(value, Mapping)]
    if models:
        one = f"torch.save(torch.load(FILE)[{models[0]!r}], NEW_FILE)"
        raise ValueError(f"it holds {' and '.join(models)}; save one of them by {one}")
    if any(getattr(value, "dtype", None) == torch.int8 for value in state.values()):
        raise ValueError("it holds quantised weights (int8), without what they are to be scaled by")
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:  # from other layouts and sizes
        patches, state = state.get("patch_embed.proj.weight"), convert(state, model)
        wanted = model.state_dict().get("patch_embed.proj.weight", patches)
        if patches is not None and patches.shape != wanted.shape:
            log.warning("%s: patches of %d pixels are resampled.", file, patches.shape[-1])
    missing, more = model.load_state_dict(state, strict=False)
    if more := [name for name in more if not name.startswith(("head", "fc.", "classifier"))]:
        log.warning("%s has %d tensors that the backbone has not, as %s.", file, len(more), more[0])
    if missing:
        has = next(iter(state), "nothing")
        raise ValueError(f"{len(missing)} tensors are missing, as {missing[0]}; it has {has}")
