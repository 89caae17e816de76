"""Pretrained backbones by name: those of timm, and a tiny ViT that ships with the package."""

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
    """Create a pretrained backbone without classifier, images (B, 3, H, H) to features (B, D).

    Args:
        name: ``"embedded"`` or any name of ``timm.list_models()``. ``vit_base_patch16_224`` means
            the paper's ``vit_base_patch16_224.augreg_in21k``.
        weights: a file with the backbone's weights, for machines that cannot reach timm's hub:
            .npz, .pth or .safetensors; None downloads the pretrained weights.
        image_size: H; None for the size of the pretraining. For another size, timm resamples the
            position embeddings of a ViT, which costs accuracy; MIST recovers part of it.

    Raises:
        FileNotFoundError: ``weights`` does not exist.
        ValueError: timm does not know the name, or the file lacks weights of the backbone.
        OSError: timm's hub cannot be reached, or does not have the weights.
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
                f"Cannot get {timm_name} from timm's hub ({str(error).splitlines()[0]}). Without "
                "a network, download its weights on another machine and give the file as `weights` "
                "(--weights FILE): .npz, .pth or .safetensors."
            ) from error
    if weights is not None:
        try:
            _load(model, Path(weights))
        except Exception as error:  # the type depends on the file
            raise ValueError(
                f"{weights} holds no weights of {name} ({' '.join(str(error).split())[:300]}). "
                "Give a .npz, .pth or .safetensors file with its plain tensors."
            ) from error
    return model


def tiny_vit(num_classes: int = 0) -> VisionTransformer:
    """The embedded architecture: 0.5 M parameters, inputs (B, 3, 32, 32), features (B, 96).

    Three strided convolutions to 16 tokens, four blocks of width 96, mean pooling.
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
        backbone: a name as in :func:`create_backbone`, or a timm model.

    Raises:
        ValueError: the mean and std are not known.
    """
    if backbone == EMBEDDED:
        return None
    config: Any = getattr(backbone, "pretrained_cfg", None)
    if isinstance(backbone, str) and timm.is_model(name := _timm_name(backbone)):
        config = getattr(timm.get_pretrained_cfg(name), "__dict__", None)
    if not config:
        raise ValueError(
            f"No mean and std are known for {str(backbone)[:60]}. Give a timm name or model, "
            "or normalize=(mean, std)."
        )
    return tuple(config["mean"]), tuple(config["std"])


def check_backbone(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> tuple[str | None, dict[str, int]]:
    """Timm's name of a backbone (None for ``"embedded"``), and timm's argument for another size.

    Raises the errors of :func:`create_backbone` before anything is downloaded or read.
    """
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(
            f"No weights at {str(weights)!r}. Give the path of a .npz, .pth or "
            ".safetensors file as `weights` (--weights)."
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
    """Timm's name, with the pretraining tag if the defaults define one."""
    return (DEFAULTS[name].timm_name if name in DEFAULTS else None) or name


def _load(model: Any, file: Path) -> None:
    """Load weights from a file; missing tensors are an error."""
    with file.open("rb") as opened:
        begin = opened.read(100).lstrip(b"\xef\xbb\xbf \r\n")
    for kind, is_it in (
        ("it is empty; download it again", not begin),
        ("it is a Git LFS pointer; `git lfs pull` downloads the file", b"git-lfs" in begin),
        ("it is a web page; download the file that it links to", begin.startswith(b"<")),
        ("it is a safetensors file; rename it", begin[8:9] == b"{" and file.suffix == ".pth"),
    ):
        if is_it:
            raise ValueError(kind)
    if file.suffix == ".npz":  # JAX layout; timm requires every tensor
        model.load_pretrained(str(file))
        return
    try:
        state = timm.models.load_state_dict(str(file), weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        if "weights_only" not in str(error):
            raise
        reason = "it is another kind of file, or a whole model; save the model's state_dict()"
        raise ValueError(reason) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}; save a model's state_dict()")
    models = [name for name, value in state.items() if isinstance(value, Mapping)]
    if models:
        one = f"torch.save(torch.load(FILE)[{models[0]!r}], NEW_FILE)"
        raise ValueError(f"it holds {' and '.join(models)}; save one of them with {one}")
    if any(getattr(value, "dtype", None) == torch.int8 for value in state.values()):
        raise ValueError("it holds quantised weights (int8) without their scales")
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:  # converts other layouts and sizes
        patches, state = state.get("patch_embed.proj.weight"), convert(state, model)
        wanted = model.state_dict().get("patch_embed.proj.weight", patches)
        if patches is not None and patches.shape != wanted.shape:
            log.warning("%s: patches of %d pixels are resampled.", file, patches.shape[-1])
    missing, more = model.load_state_dict(state, strict=False)
    if more := [name for name in more if not name.startswith(("head", "fc.", "classifier"))]:
        log.warning("%s: %d tensors are not in the backbone, e.g. %s.", file, len(more), more[0])
    if missing:
        has = next(iter(state), "nothing")
        raise ValueError(f"{len(missing)} tensors are missing, e.g. {missing[0]}; it has {has}")
