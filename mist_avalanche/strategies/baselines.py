"""Avalanche's own strategies as the command builds them, and the settings of each.

All have the same backbone, data, order and passes over the data. Momentum, epochs and batch size
are those of Avalanche's examples. Of the learning rates 0.01, 0.003 and 0.001 only 0.003 neither
leaves Naive at chance (0.01) nor costs Replay ten points (0.001), on glyphs of the embedded
backbone's pretraining, drawn hollow on blotted paper (studies/performance/baseline_rates.py).
Nothing was tuned on what is reported. A setting from elsewhere stands with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from avalanche.models import FeatureExtractorModel, IncrementalClassifier, SCRModel
from avalanche.training.plugins import FromScratchTrainingPlugin
from avalanche.training.supervised import (
    DER,
    ER_ACE,
    EWC,
    SCR,
    Cumulative,
    LwF,
    Naive,
    Replay,
    StreamingLDA,
)
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torchvision.transforms import v2

from ..models.backbone_with_head import BackboneWithHead
from ..utils import check_rate
from .base import arguments_of
from .registry import register

LR, MOMENTUM, EPOCHS, BATCH_SIZE, MEMORY = 0.003, 0.9, 10, 32, 200
_REHEARSAL = {"mem_size": MEMORY, "batch_size_mem": BATCH_SIZE}


def _growing(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """A linear classifier that grows with the classes."""
    return BackboneWithHead(backbone, IncrementalClassifier(n_features))


def _of_all_classes(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """A linear classifier of all classes: DER compares logits with those of earlier experiences."""
    return BackboneWithHead(backbone, nn.Linear(n_features, n_classes))


def _projecting(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """A projection for contrastive training, and class means for evaluation."""
    layers = nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, 128)
    model: nn.Module = SCRModel(backbone, nn.Sequential(*layers))
    return model


def _features(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """Features alone, which the strategy classifies."""
    model: nn.Module = FeatureExtractorModel(backbone, nn.Identity())
    return model


class _StreamingLDA(StreamingLDA):
    """Avalanche's StreamingLDA, built like the others and with a state."""

    _learned = ("muK", "cK", "Sigma", "Lambda", "num_updates", "prev_num_updates")

    def __init__(self, *, model: nn.Module, device: Any, **arguments: Any) -> None:
        super().__init__(slda_model=model.to(device), device=device, **arguments)

    def state_dict(self) -> dict[str, Any]:
        """The backbone, class means, counts and covariance."""
        learned = {name: getattr(self, name) for name in self._learned}
        return {"model": self.model.state_dict(), **learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        for name in self._learned:
            value = state[name]
            is_tensor = isinstance(value, torch.Tensor)
            setattr(self, name, value.clone().to(self.device) if is_tensor else value)


@dataclass(frozen=True)
class Baseline:
    """Builds a strategy of Avalanche's.

    Args:
        strategy: its class.
        settings: its arguments that differ from Avalanche's.
        model: makes what it trains from a backbone, its width and the number of classes.
        plugins: made anew for each run.
    """

    strategy: type[SupervisedTemplate]
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[nn.Module, int, int], nn.Module] = _growing
    plugins: Callable[[], list[Any]] = list

    @property
    def is_trained(self) -> bool:
        """Whether it has an optimizer."""
        return self.strategy is not _StreamingLDA

    @property
    def arguments(self) -> set[str]:
        """Names of the arguments that may be changed."""
        chosen_here = {"optimizer", "criterion", "augmentations"}
        if self.is_trained:
            return arguments_of(self.strategy) - chosen_here | {"lr"}
        chosen_here |= {"slda_model", "input_size", "num_classes", "output_layer_name"}
        return arguments_of(self.strategy) - chosen_here - {"train_epochs"}

    def __call__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_classes: int,
        image_size: int,
        plugins: Sequence[Any] = (),
        lr: float = LR,
        **arguments: Any,
    ) -> SupervisedTemplate:
        """The strategy on a backbone; ``lr`` is that of its SGD."""
        check_rate("lr", lr, "(0, inf)")
        model = self.model(backbone, n_features, n_classes)
        given: dict[str, Any] = {
            "train_mb_size": BATCH_SIZE,
            "train_epochs": EPOCHS,
            "eval_mb_size": 64,
            **self.settings,
            **arguments,
            "plugins": [*self.plugins(), *plugins],
        }
        if self.is_trained:
            given["optimizer"] = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)
        else:
            given |= {"input_size": n_features, "num_classes": n_classes, "train_epochs": 1}
        if self.strategy is SCR:  # Mai et al., arXiv 2103.13885; letters are not mirrored
            crop = v2.RandomResizedCrop(image_size, (0.2, 1.0))
            given["augmentations"] = v2.Compose([crop, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)])
        else:
            given["criterion"] = nn.CrossEntropyLoss()
        return self.strategy(model=model, **given)


def _register(name: str, title: str, baseline: Baseline, **about: Any) -> None:
    register(name, title=title, is_baseline=True, **about)(baseline)


_register("naive", "Naive", Baseline(Naive))
_register("replay", "Replay", Baseline(Replay, {"mem_size": MEMORY}))
# ewc_lambda: Avalanche's example on split MNIST
_register("ewc", "EWC", Baseline(EWC, {"ewc_lambda": 0.4}), paper="arXiv 1612.00796")
_register("lwf", "LwF", Baseline(LwF, {"alpha": 1.0, "temperature": 2.0}), paper="arXiv 1606.09282")
_register(
    "er_ace", "ER-ACE", Baseline(ER_ACE, _REHEARSAL, _of_all_classes), paper="arXiv 2104.05025"
)
_register("der", "DER", Baseline(DER, _REHEARSAL, _of_all_classes), paper="arXiv 2004.07211")
_register(
    "scr",
    "SCR",
    Baseline(SCR, {"mem_size": MEMORY, "batch_size_mem": 100}, _projecting),
    paper="arXiv 2103.13885",
)
_register(
    "streaming_lda",
    "Streaming LDA",
    Baseline(_StreamingLDA, model=_features),
    paper="arXiv 1909.01520",
    mist={"classifier": "train_classifier", "tune_on": "first"},
)
_register("cumulative", "Cumulative", Baseline(Cumulative), upper_bound=True)
# from the pretrained weights on all data so far, after each experience
_register(
    "joint",
    "Joint",
    Baseline(Cumulative, plugins=lambda: [FromScratchTrainingPlugin()]),
    upper_bound=True,
)
