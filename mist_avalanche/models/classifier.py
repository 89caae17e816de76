"""Finds the classifier of a model, which defines the features and the backbone.

The features are the classifier's input; the backbone is every parameter outside the classifier.
No other module of the package decides what is backbone, bias or normalisation.
"""

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.models import DynamicModule, MultiTaskModule, SCRModel, TrainEvalModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..utils import callers_level, in_mode, isolated_rng

# ---- A model as a feature extractor --------------------------------------------------------------


@dataclass(frozen=True)
class FeatureExtractor:
    """A model as a feature extractor; its features have gradients.

    Args:
        model: a model that returns logits.
        classifier: name of the module whose input is the features.
    """

    model: nn.Module
    classifier: str

    def everything(self) -> dict[str, nn.Parameter]:
        """All parameters before the classifier, including frozen ones, each under its first name.

        Names do not contain the prefix ``_orig_mod.`` of ``torch.compile``.
        """
        head = {id(p) for p in self.model.get_submodule(self.classifier).parameters()}
        return {
            name.replace("_orig_mod.", ""): p
            for name, p in self.model.named_parameters()
            if id(p) not in head
        }

    def backbone(self) -> dict[str, nn.Parameter]:
        """Parameters that MIST may tune, by name."""
        return {name: p for name, p in self.everything().items() if p.requires_grad}

    def check_trainable(self) -> None:
        """Raise a ValueError if no parameter before the classifier requires gradients."""
        if not self.backbone():
            raise ValueError(
                f"There is nothing to tune: no parameter before the classifier {self.classifier!r} "
                f"of {type(self.model).__name__} requires gradients. Unfreeze the backbone with "
                "requires_grad_(True), or name another module in MISTPlugin(classifier=NAME)."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, D) of a batch; additional axes are flattened into D.

        Raises:
            ValueError: the classifier was not called, or not with a batch of features.
        """
        seen: list[Any] = []
        module = self.model.get_submodule(self.classifier)
        hook = module.register_forward_pre_hook(
            lambda _module, inputs, named: seen.extend([*inputs, *named.values()][:1]),
            with_kwargs=True,
        )
        try:
            self.model(x)
        finally:
            hook.remove()
        if not seen or not isinstance(seen[-1], Tensor) or len(seen[-1]) != len(x):
            raise ValueError(
                f"The module {self.classifier!r} gets no features (B, D) in a forward pass. Name "
                "another module in MISTPlugin(classifier=NAME)."
            )
        return seen[-1].flatten(1)


def always_selected(model: nn.Module) -> set[int]:
    """Ids of the parameters that MIST always selects: biases and normalisation weights."""
    normalisations = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return {
        id(p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if name.startswith("bias")
        or name.endswith("_bias")
        or isinstance(module, normalisations)
        or ("norm" in type(module).__name__.lower() and p.ndim <= 1)
    }


# ---- The classifier of a model that returns logits -----------------------------------------------


def feature_extractor(strategy: Any, classifier: str | None, seed: int) -> FeatureExtractor:
    """What MISTPlugin scores and tunes: ``strategy.backbone``, or else the strategy's model.

    ``classifier`` is the name that the user gave, or None. ``seed`` seeds the transform of the one
    image that is passed through the model. Raises a ValueError if no classifier is found.
    """
    backbone = getattr(strategy, "backbone", None)
    if isinstance(backbone, nn.Module) and classifier is None:
        parts = OrderedDict(backbone=backbone, head=nn.Identity())
        return FeatureExtractor(nn.Sequential(parts), "head")
    model: nn.Module = strategy.model
    model = getattr(model, "_orig_mod", model)  # torch.compile would not see our hooks
    with isolated_rng(seed, strategy.device):
        x = strategy.experience.dataset.eval()[0][0].unsqueeze(0).to(strategy.device)
        return FeatureExtractor(model, find_classifier(model, x, classifier))


def find_classifier(model: nn.Module, x: Tensor, name: str | None = None) -> str:
    """The name of the module whose input is the features.

    It is the layer whose output is the model's output, where a growing Avalanche head counts as one
    layer. If there is none, it is the model's only linear layer.

    Args:
        model: a model that returns logits; its state does not change.
        x: a batch of its inputs; one image is enough.
        name: the name that the user gave, which is checked and returned.

    Raises:
        ValueError: there is no such module, or the classifier is ambiguous.
    """
    modules = dict(model.named_modules())
    if any(isinstance(m, (MultiTaskModule, TrainEvalModel, SCRModel)) for m in modules.values()):
        raise ValueError(
            "MISTPlugin needs features that do not depend on task labels, and one classifier. It "
            "cannot tune multi-task models (as_multitask, MultiHeadClassifier), or models that "
            "classify differently in evaluation (TrainEvalModel of ICaRL, SCRModel)."
        )
    linear = [n for n, module in modules.items() if isinstance(module, nn.Linear)]
    shown = ", ".join(f"{n!r} {tuple(modules[n].weight.shape)}" for n in linear[-8:])
    candidates = f"Linear layers: {shown or 'none'}."
    if name is not None:
        if name not in modules:
            raise ValueError(f"The model has no module named {name!r}. {candidates}")
        return name
    final = _modules_of_output(model, x)
    growing = [n for n in final if isinstance(modules[n], DynamicModule)]
    growing = [n for n in growing if FeatureExtractor(model, n).everything()]  # a part of it
    # linear layers and similar ones with one weight matrix, such as cosine classifiers
    layers = [n for n in final if getattr(getattr(modules[n], "weight", None), "ndim", 0) == 2]
    layers = layers or (linear if len(linear) == 1 else [])
    if growing or layers:
        return max(growing or layers, key=len)  # the innermost of nested ones
    raise ValueError(
        f"Cannot tell which module of {type(model).__name__} is the classifier. {candidates} "
        "Name the module whose input is the features in MISTPlugin(classifier=NAME)."
    )


def _modules_of_output(model: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules whose output is the model's output."""
    outputs: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), in_mode(model, training=False):
            output = model(x)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot take an image of shape {tuple(x.shape[1:])}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, out in outputs.items() if out is output]


# ---- A backbone that still has its classifier ----------------------------------------------------


def without_classifier(model: nn.Module, strategy: str) -> nn.Module:
    """Remove the model's classifier, if it still has one, with a warning.

    ``strategy`` is named in messages. A classifier that grows raises a ValueError.
    """
    if any(isinstance(module, DynamicModule) for module in model.modules()):
        raise ValueError(
            f"{strategy} needs a backbone that returns features, and this {type(model).__name__} "
            "has a classifier that grows or depends on task labels. Give the backbone alone."
        )
    before = dict(model.named_parameters())
    _remove_classifier(model)
    if removed := before.keys() - dict(model.named_parameters()):
        warnings.warn(
            f"{type(model).__name__} still had its classifier, {', '.join(sorted(removed))}. "
            f"{strategy} needs features and has removed it. Give a model without a classifier: "
            "timm.create_model(NAME, num_classes=0), or replace it by torch.nn.Identity().",
            stacklevel=callers_level(),
        )
    return model


def _remove_classifier(model: Any) -> None:
    """Remove the classifier of a timm, torchvision or Avalanche model, also inside a wrapper."""
    if hasattr(model, "reset_classifier"):  # timm's models have a method for it
        model.reset_classifier(0)
        return
    if any(
        base.__module__.startswith(("torchvision.", "avalanche.")) for base in type(model).mro()
    ):
        last_parts = ("fc", "classifier", "heads", "head", "linear", "output")
        names = [name for name, _ in model.named_modules() if name.split(".")[0] in last_parts]
        if names and isinstance(model.get_submodule(names[-1]), nn.Linear):
            model.set_submodule(names[-1], nn.Identity())
            return
    parts = [part for part in model.children() if any(True for _ in part.parameters())]
    if len(parts) == 1 or (parts and isinstance(model, nn.Sequential)):
        _remove_classifier(parts[-1])  # e.g. after a normalisation, or inside torch.compile
