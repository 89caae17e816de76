"""Where a model's classifier is, and so what is backbone and what are features.

The features are the classifier's input; the backbone is every parameter that is not the
classifier's. Nothing else in the package decides what is backbone, bias or normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.models import DynamicModule, MultiTaskModule, SCRModel, TrainEvalModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .._support.randomness import isolated_rng


def before_classifier(model: nn.Module, classifier: str) -> dict[str, nn.Parameter]:
    """Parameters that are not the classifier's, frozen ones too, each once, under its first name.

    ``torch.compile``'s ``_orig_mod.`` is not part of a name.
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


def is_layer(module: nn.Module) -> bool:
    """Linear layers, and look-alikes such as cosine classifiers: one matrix of their own."""
    if "weight" not in {*module._parameters, *getattr(module, "parametrizations", ())}:
        return isinstance(module, nn.Linear)  # as the older weight_norm leaves it
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def leaves_some(model: nn.Module, name: str) -> bool:
    """True when the model has parameters besides those of the named module."""
    head = {id(p) for p in model.get_submodule(name).parameters()}
    return any(id(p) not in head for p in model.parameters())


def check_single_head(model: nn.Module) -> None:
    """ValueError where features depend on task labels."""
    if any(isinstance(module, MultiTaskModule) for module in model.modules()):
        raise ValueError(
            "The features of a multi-task model (as_multitask, MultiHeadClassifier) depend on task "
            "labels, which MISTPlugin, SimpleCIL and RanPAC do without. Use a single-head model, "
            "for example with avalanche.models.IncrementalClassifier."
        )


def find_classifier(model: nn.Module, x: Tensor, name: str | None = None) -> str:
    """The name of the module whose input are the features.

    It is the layer whose output is the model's output, a growing Avalanche head counting as one
    layer; failing that, the only linear layer there is.

    Args:
        model: any model giving logits; its state is left as it was.
        x: a batch of its inputs, (1, ...) is enough.
        name: the user's own answer, checked and returned.

    Raises:
        ValueError: no such module, or no module that is surely the classifier; the message lists
            the candidates.
    """
    check_single_head(model)
    if isinstance(model, (TrainEvalModel, SCRModel)):
        raise ValueError(
            "MISTPlugin cannot tune a model that has another classifier in evaluation than in "
            "training (TrainEvalModel and SCRModel, of ICaRL and SCR). Use a strategy with one "
            "classifier."
        )
    modules = dict(model.named_modules())
    linear = [n for n, module in modules.items() if isinstance(module, nn.Linear)]
    shown = ", ".join(f"{n!r} {tuple(modules[n].weight.shape)}" for n in linear[-8:])
    candidates = f"Linear layers: {shown or 'none'}." if linear else "It has no linear layer."
    if name is not None:
        if name not in modules or not name:
            raise ValueError(f"The model has no module named {name!r}. {candidates}")
        return name

    outputs: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, n=n: outputs.__setitem__(n, out))
        for n, module in modules.items()
        if n
    ]
    try:
        with in_mode(model, training=False), torch.no_grad():
            result = model(x)
    except (TypeError, AssertionError, LookupError) as error:
        raise ValueError(
            f"MISTPlugin calls the model with images alone before it is trained, and "
            f"{type(model).__name__} cannot do that ({error}). Use a model that needs no task "
            "labels and no training for its first outputs."
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot take images of shape {tuple(x.shape[1:])}: {error}. "
            "Give the benchmark transforms that fit the model."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    final = [n for n, out in outputs.items() if out is result]
    growing = [n for n in final if isinstance(modules[n], DynamicModule) and leaves_some(model, n)]
    if growing:
        return max(growing, key=len)
    layers = [n for n in final if is_layer(modules[n])] or (linear if len(linear) == 1 else [])
    if layers:
        return max(layers, key=len)
    if not isinstance(result, Tensor) or result.ndim != 2:
        raise ValueError(
            f"MISTPlugin needs a model that gives logits (B, C), and {type(model).__name__} gives "
            f"{tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__}. "
            "There is no classifier whose features it could tune."
        )
    raise ValueError(
        f"Cannot tell which module of {type(model).__name__} is the classifier. {candidates} "
        "Give MISTPlugin(classifier=NAME), the module whose input are the features."
    )


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside, every module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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

    A strategy whose model is more than a backbone and a classifier (prompts, adapters) gives the
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
        seed: of the transform of the one image that is looked at; the host's streams are not used.

    Raises:
        ValueError: no classifier is found.
    """
    with isolated_rng(seed, strategy.device):
        x = strategy.experience.dataset.eval()[0][0].unsqueeze(0).to(strategy.device)
        model = model_to_tune(strategy)
        name = find_classifier(model, x, classifier)
    return FeatureExtractor(model, name)
