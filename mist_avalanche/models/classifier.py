"""The classifier of a model, and so what is backbone and what are features.

The features are the classifier's input; the backbone is every parameter that is not the
classifier's. Nothing else in the package decides what is backbone, bias or normalisation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.models import DynamicModule, MultiTaskModule, SCRModel, TrainEvalModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..utils import callers_level, in_mode, isolated_rng

# ---- What is backbone, bias and normalisation ----------------------------------------------------


def before_classifier(model: nn.Module, classifier: str) -> dict[str, nn.Parameter]:
    """Parameters that are not the classifier's, frozen ones too, each once, under its first name.

    The prefix ``_orig_mod.`` of ``torch.compile`` is not part of a name.
    """
    head = {id(p) for p in model.get_submodule(classifier).parameters()}
    return {
        name.replace("_orig_mod.", ""): p
        for name, p in model.named_parameters()
        if id(p) not in head
    }


def always_selected(model: nn.Module) -> set[int]:
    """Ids of the parameters that MIST always selects: biases, and scales of normalisations."""
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


# ---- The classifier of a model that gives logits -------------------------------------------------


def find_classifier(model: nn.Module, x: Tensor, name: str | None = None) -> str:
    """The name of the module whose input are the features.

    It is the layer whose output is the model's output, a growing Avalanche head counting as one
    layer; failing that, the only linear layer there is.

    Args:
        model: gives logits; its state is left as it was.
        x: a batch of its inputs; one image is enough.
        name: the user's own answer, checked and returned.

    Raises:
        ValueError: there is no such module, or no module is certain to be the classifier; the
            message lists the candidates.
    """
    check_single_head(model)
    if isinstance(model, (TrainEvalModel, SCRModel)):
        raise ValueError(
            "MISTPlugin cannot tune a model whose classifier in evaluation is not the one of "
            "training (TrainEvalModel and SCRModel, of ICaRL and SCR). Use a strategy with one "
            "classifier."
        )
    modules = dict(model.named_modules())
    linear = [n for n, module in modules.items() if isinstance(module, nn.Linear)]
    shown = ", ".join(f"{n!r} {tuple(modules[n].weight.shape)}" for n in linear[-8:])
    candidates = f"Linear layers: {shown or 'none'}."
    if name is not None:
        if name not in modules or not name:
            raise ValueError(f"The model has no module named {name!r}. {candidates}")
        return name
    result, outputs = _outputs(model, x)
    final = [n for n, output in outputs.items() if output is result]
    growing = [n for n in final if isinstance(modules[n], DynamicModule) and _has_more(model, n)]
    layers = [n for n in final if _is_layer(modules[n])] or (linear if len(linear) == 1 else [])
    if growing or layers:
        return max(growing or layers, key=len)  # the innermost of nested ones
    if not isinstance(result, Tensor) or result.ndim != 2:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"MISTPlugin needs a model that gives logits (B, C), and {type(model).__name__} gives "
            f"{shape}. It has no classifier whose features could be tuned."
        )
    raise ValueError(
        f"Cannot tell which module of {type(model).__name__} is the classifier. {candidates} "
        "Give MISTPlugin(classifier=NAME), the module whose input are the features."
    )


def _outputs(model: nn.Module, x: Tensor) -> tuple[Any, dict[str, Any]]:
    """The output of a model for a batch, and the output of each of its modules by name."""
    outputs: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), in_mode(model, training=False):
            return model(x), outputs
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot take images of shape {tuple(x.shape[1:])}: {error}. "
            "Give the benchmark transforms that fit the model."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def check_single_head(model: nn.Module) -> None:
    """ValueError where features depend on task labels."""
    if any(isinstance(module, MultiTaskModule) for module in model.modules()):
        raise ValueError(
            "The features of a multi-task model (as_multitask, MultiHeadClassifier) depend on task "
            "labels, which MISTPlugin and the strategies here do without. Use a single-head model, "
            "for example with avalanche.models.IncrementalClassifier."
        )


def _is_layer(module: nn.Module) -> bool:
    """Linear layers, and look-alikes such as cosine classifiers: one matrix of their own."""
    if "weight" not in {*module._parameters, *getattr(module, "parametrizations", ())}:
        return isinstance(module, nn.Linear)  # as the older weight_norm leaves it
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _has_more(model: nn.Module, name: str) -> bool:
    """Whether the model has parameters besides those of the named module."""
    return bool(before_classifier(model, name))


# ---- A model seen from its features --------------------------------------------------------------


@dataclass(frozen=True)
class FeatureExtractor:
    """A model seen from its features.

    Args:
        model: gives logits.
        classifier: name of the module whose input are the features.
    """

    model: nn.Module
    classifier: str

    def everything(self) -> dict[str, nn.Parameter]:
        """Parameters before the classifier, by name, frozen ones too."""
        return before_classifier(self.model, self.classifier)

    def backbone(self) -> dict[str, nn.Parameter]:
        """Parameters that MIST may tune, by name."""
        return {name: p for name, p in self.everything().items() if p.requires_grad}

    def check_trainable(self) -> None:
        """ValueError where no parameter before the classifier requires gradients."""
        if not self.backbone():
            raise ValueError(
                f"There is nothing to tune: no parameter before the classifier {self.classifier!r} "
                f"of {type(self.model).__name__} requires gradients. Unfreeze the backbone with "
                "requires_grad_(True), or give MISTPlugin(classifier=NAME) another module."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, D) of a batch, with gradient; more than one axis is flattened to D.

        Raises:
            ValueError: the classifier did not run, or got no batch of features.
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
                f"The module {self.classifier!r} gets no features (B, D) in a forward pass. Give "
                "MISTPlugin(classifier=NAME) another module."
            )
        features: Tensor = seen[-1].flatten(1)
        return features


def model_to_tune(strategy: Any) -> nn.Module:
    """What MISTPlugin scores and tunes: ``strategy.model_to_tune``, or the strategy's model.

    A strategy whose model is more than a backbone and a classifier (prompts, adapters) gives these
    two alone.
    """
    model: nn.Module = getattr(strategy, "model_to_tune", None) or strategy.model
    plain: nn.Module = getattr(model, "_orig_mod", model)  # of torch.compile, whose hooks are fixed
    return plain


def feature_extractor(strategy: Any, classifier: str | None, seed: int) -> FeatureExtractor:
    """The strategy's model seen from its features.

    Args:
        strategy: an Avalanche strategy in training on an experience.
        classifier: the user's own answer, or None.
        seed: of the transform of the one image that is looked at; global random streams are left
            as they were.

    Raises:
        ValueError: no classifier is found.
    """
    with isolated_rng(seed, strategy.device):
        x = strategy.experience.dataset.eval()[0][0].unsqueeze(0).to(strategy.device)
        model = model_to_tune(strategy)
        name = find_classifier(model, x, classifier)
    return FeatureExtractor(model, name)


# ---- A backbone that still has its classifier ----------------------------------------------------

# What torchvision and Avalanche call the last part of their models, and BackboneWithHead its head.
_HEADS = ("fc", "classifier", "heads", "head", "linear", "output", "train_classifier")


def without_classifier(model: nn.Module, strategy: str) -> nn.Module:
    """The model without the classifier that it may still have; there is a warning if it had one.

    Args:
        model: images to features, or to logits.
        strategy: its name, for the warning, which points to the user's own line.

    Raises:
        ValueError: the model's features depend on task labels.
    """
    name = take_off_classifier(model)
    if name is not None:
        warnings.warn(
            f"{type(model).__name__} still had its classifier, {name!r}. {strategy} needs features "
            "and has removed it. Give a model without: timm.create_model(NAME, num_classes=0), or "
            "torch.nn.Identity() in its place.",
            stacklevel=callers_level(),
        )
    return model


def take_off_classifier(model: nn.Module) -> str | None:
    """Remove the classifier that a model still has, and return its name.

    Models of timm do it themselves; in others ``nn.Identity`` takes its place.

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


def attached_classifier(model: nn.Module) -> str | None:
    """The name of the classifier that a timm, torchvision or Avalanche model still has, if any.

    No batch is needed. A model that is the only part with parameters of another, such as behind a
    normalisation or in ``torch.compile``, is recognised as well.
    """
    path, module = "", model
    while True:
        name = _own_classifier(module)
        if name is not None and _has_more(module, name):
            return path + name
        parts = [n for n, part in module.named_children() if any(True for _ in part.parameters())]
        if isinstance(module, nn.Sequential):
            parts = parts[-1:]  # its output is that of the last
        if len(parts) != 1:
            return None
        path, module = f"{path}{parts[0]}.", module.get_submodule(parts[0])


def _own_classifier(module: nn.Module) -> str | None:
    """The classifier by the conventions of the library that a model's class comes from."""
    if isinstance(module, nn.Sequential) and len(module):
        return str(len(module) - 1) if isinstance(module[-1], DynamicModule) else None
    libraries = {kind.__module__.split(".")[0] for kind in type(module).__mro__}
    get_classifier: Any = getattr(module, "get_classifier", None)
    if "timm" in libraries and get_classifier is not None:
        heads = get_classifier()
        heads = heads if isinstance(heads, (tuple, list)) else [heads]  # two where distilled
        left = [head for head in heads if any(True for _ in head.parameters())]
        return next((name for name, part in module.named_modules() if part in left), None)
    if not libraries & {"torchvision", "avalanche", "mist_avalanche"}:
        return None
    for name in _HEADS:
        part = module._modules.get(name)
        if isinstance(part, DynamicModule):
            return name
        last, layer = [*part.named_modules(prefix=name)][-1] if part else ("", module)
        if last and _is_layer(layer):  # a classifier that was cut off ends in another layer
            return last
    return None
