"""Models of timm, torchvision and Avalanche that still have their classifier."""

from __future__ import annotations

import warnings
from typing import Any

from avalanche.models import DynamicModule
from torch import nn

from .._support.warnings import callers_level
from .features import check_single_head, is_layer, leaves_some

# What torchvision and Avalanche call the last part of their models.
_HEADS = ("fc", "classifier", "heads", "head", "linear", "output", "train_classifier")


_OF_LOGITS = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid)  # what may follow it


def attached_classifier(model: nn.Module) -> str | None:
    """The name of the classifier that a timm, torchvision or Avalanche model still has, if any.

    It is known by sight, without a batch, and the one that
    :func:`~mist_avalanche.models.features.find_classifier` finds. A model that is the only part
    with parameters of another (after a normalisation, in ``torch.compile``) counts as well.
    """
    path, module = "", model
    while True:
        name = _own_classifier(module)
        if name is not None and leaves_some(module, name):
            return path + name
        parts = [
            name for name, part in module.named_children() if any(True for _ in part.parameters())
        ]
        if isinstance(module, nn.Sequential) and parts:
            parts = parts[-1:]  # its output is that of the last
        if len(parts) != 1:
            return None
        path, module = f"{path}{parts[0]}.", module.get_submodule(parts[0])


def _own_classifier(module: nn.Module) -> str | None:
    """The classifier by the habits of the library that a model's class comes from."""
    if isinstance(module, nn.Sequential) and len(module):
        return str(len(module) - 1) if isinstance(module[-1], DynamicModule) else None
    origin = {kind.__module__.split(".")[0] for kind in type(module).__mro__}
    get_classifier: Any = getattr(module, "get_classifier", None)
    if "timm" in origin and get_classifier is not None:
        heads = get_classifier()
        heads = heads if isinstance(heads, (tuple, list)) else [heads]  # two where distilled
        left = [head for head in heads if any(True for _ in head.parameters())]
        names = (name for name, part in module.named_modules() if part in left)
        return next(names, None)
    if not origin & {"torchvision", "avalanche", __name__.split(".")[0]}:
        return None
    for name in _HEADS:
        part = module._modules.get(name)
        if isinstance(part, DynamicModule):
            return name
        inner: list[tuple[str, nn.Module]] = [*part.named_modules(prefix=name)] if part else []
        while inner and isinstance(inner[-1][1], _OF_LOGITS):
            inner.pop()
        if inner and is_layer(inner[-1][1]):  # what comes last; a cut one ends in another layer
            return inner[-1][0]
        for inside, layer in inner:  # SqueezeNet's is a convolution
            if getattr(layer, "out_channels", None) == getattr(module, "num_classes", 0):
                return inside
    return None


def without_classifier(model: nn.Module, strategy: str) -> None:
    """Take off the classifier that a model still has, with a warning to the user's line."""
    if (name := take_off_classifier(model)) is not None:
        warnings.warn(
            f"{type(model).__name__} still had its classifier, {name!r}. {strategy} needs features "
            "and has taken it off. Give a model without: timm.create_model(NAME, num_classes=0), "
            "or torch.nn.Identity() in its place.",
            stacklevel=callers_level(),
        )


def take_off_classifier(model: nn.Module) -> str | None:
    """Leave a model without the classifier that it still has, and give its name.

    Timm's models do it themselves; in others the identity takes its place.

    Raises:
        ValueError: the model's features depend on task labels.
    """
    check_single_head(model)
    name = attached_classifier(model)
    if name is None:
        return None
    parts = name.split(".")
    owners = (model.get_submodule(".".join(parts[:i])) for i in range(len(parts)))
    reset: Any = next((m.reset_classifier for m in owners if hasattr(m, "reset_classifier")), None)
    if reset is not None:
        reset(0)
    else:
        model.set_submodule(name, nn.Identity())
    return name
