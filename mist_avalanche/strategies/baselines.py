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

LR, MOMENTUM, BATCH_SIZE, MEMORY = 0.003, 0.9, 32, 200
COMMON = {"train_mb_size": BATCH_SIZE, "train_epochs": 10, "eval_mb_size": 64}


def _growing(n_features: int, n_classes: int) -> nn.Module:
    """A linear classifier that grows with the classes."""
    classifier: nn.Module = IncrementalClassifier(n_features)
    return classifier


def _projection(n_features: int, n_classes: int) -> nn.Module:
    """The projection of contrastive training."""
    layers = nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, 128)
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Baseline:
    """Builds a strategy of Avalanche's.

    Args:
        strategy: its class.
        settings: its arguments that differ from Avalanche's.
        head: makes what follows the backbone from its width and the number of classes.
        plugins: made anew for each run.
    """

    strategy: type[SupervisedTemplate]
    settings: Mapping[str, Any] = field(default_factory=dict)
    head: Callable[[int, int], nn.Module] = _growing
    plugins: Callable[[], list[Any]] = list

    @property
    def arguments(self) -> set[str]:
        """Names of the arguments that may be changed."""
        return arguments_of(self.strategy) - {"optimizer", "augmentations"} | {"lr"}

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
        head = self.head(n_features, n_classes)
        model, given = BackboneWithHead(backbone, head), {"criterion": nn.CrossEntropyLoss()}
        if self.strategy is SCR:  # Mai et al., arXiv 2103.13885; letters are not mirrored
            crop = v2.RandomResizedCrop(image_size, (0.2, 1.0))
            jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
            model, given = SCRModel(backbone, head), {"augmentations": v2.Compose([crop, jitter])}
        return self.strategy(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM),
            plugins=[*self.plugins(), *plugins],
            **{**COMMON, **given, **self.settings, **arguments},
        )


@register(
    "streaming_lda",
    title="Streaming LDA",
    paper="arXiv 1909.01520",
    is_baseline=True,
    mist={"classifier": "train_classifier", "tune_on": "first"},
)
class _StreamingLDA(StreamingLDA):
    """Avalanche's StreamingLDA, built like the others and with a state."""

    arguments = (
        *("train_mb_size", "eval_mb_size", "eval_every"),
        *("shrinkage_param", "streaming_update_sigma"),
    )
    _learned = ("muK", "cK", "Sigma", "Lambda", "num_updates", "prev_num_updates")

    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_classes: int,
        image_size: int,
        device: Any,
        **arguments: Any,
    ) -> None:
        model = FeatureExtractorModel(backbone, nn.Identity())  # whose features it classifies
        super().__init__(
            slda_model=model.to(device),
            criterion=nn.CrossEntropyLoss(),
            input_size=n_features,
            num_classes=n_classes,
            device=device,
            **{**COMMON, **arguments, "train_epochs": 1},
        )

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


def _register(name: str, title: str, baseline: Baseline, **about: Any) -> None:
    register(name, title=title, is_baseline=True, **about)(baseline)


_of_memory = {"mem_size": MEMORY, "batch_size_mem": BATCH_SIZE}
_scr = Baseline(SCR, {"mem_size": MEMORY, "batch_size_mem": 100}, _projection)
_from_scratch = Baseline(Cumulative, plugins=lambda: [FromScratchTrainingPlugin()])
_register("naive", "Naive", Baseline(Naive))
_register("replay", "Replay", Baseline(Replay, {"mem_size": MEMORY}))
# ewc_lambda: Avalanche's example on split MNIST
_register("ewc", "EWC", Baseline(EWC, {"ewc_lambda": 0.4}), paper="arXiv 1612.00796")
_register("lwf", "LwF", Baseline(LwF, {"alpha": 1.0, "temperature": 2.0}), paper="arXiv 1606.09282")
# These compare logits with those of earlier experiences: all classes have theirs from the start.
_register("er_ace", "ER-ACE", Baseline(ER_ACE, _of_memory, nn.Linear), paper="arXiv 2104.05025")
_register("der", "DER", Baseline(DER, _of_memory, nn.Linear), paper="arXiv 2004.07211")
_register("scr", "SCR", _scr, paper="arXiv 2103.13885")
_register("cumulative", "Cumulative", Baseline(Cumulative), upper_bound=True)
# from the pretrained weights on all data so far, after each experience
_register("joint", "Joint", _from_scratch, upper_bound=True)
