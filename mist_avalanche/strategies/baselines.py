"""Avalanche's own strategies as the command builds them, and the settings of each.

All have the same backbone, data, order and passes over the data. Momentum, epochs and batch size
are those of Avalanche's examples. Of the learning rates 0.01, 0.003 and 0.001, only at 0.003
neither Naive ends at chance (0.01) nor Replay loses ten points (0.001), on glyphs of the embedded
backbone's pretraining, drawn hollow on blotted paper (studies/performance/baseline_rates.py). Nothing
was tuned on what is reported. Where a setting of a strategy has another source, it stands with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
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

from .._support.checks import check_rate
from ..models.heads import BackboneWithHead

LR, MOMENTUM, EPOCHS, BATCH_SIZE, MEMORY = 0.003, 0.9, 10, 32, 200


def _growing(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """A linear classifier that grows with the classes."""
    return BackboneWithHead(backbone, IncrementalClassifier(n_features))


def _whole(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """A linear classifier of all classes: DER compares logits with those of earlier experiences."""
    return BackboneWithHead(backbone, nn.Linear(n_features, n_classes))


def _projecting(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """A projection for contrastive training and class means for evaluation."""
    layers = nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, 128)
    model: nn.Module = SCRModel(backbone, nn.Sequential(*layers))
    return model


def _features(backbone: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """Features alone, which the strategy classifies."""
    model: nn.Module = FeatureExtractorModel(backbone, nn.Identity())
    return model


class _StreamingLDA(StreamingLDA):
    """Avalanche's, with its state."""

    _names = ("muK", "cK", "Sigma", "Lambda", "num_updates", "prev_num_updates")

    def state_dict(self) -> dict[str, Any]:
        """Class means, counts, and covariance."""
        return {name: getattr(self, name) for name in self._names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        for name in self._names:
            setattr(self, name, state[name])


@dataclass(frozen=True)
class Baseline:
    """A strategy of Avalanche's.

    Args:
        strategy: its class.
        settings: its arguments that differ from Avalanche's.
        model: what it trains, of a backbone, its width and the number of classes.
        plugins: made anew for each run.
        mist: arguments of MISTPlugin that its model needs.
    """

    strategy: type[SupervisedTemplate]
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[nn.Module, int, int], nn.Module] = _growing
    plugins: Callable[[], list[Any]] = list
    mist: Mapping[str, Any] = field(default_factory=dict)


_REHEARSAL = {"mem_size": MEMORY, "batch_size_mem": BATCH_SIZE}
BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "naive": Baseline(Naive),
        "replay": Baseline(Replay, {"mem_size": MEMORY}),
        "ewc": Baseline(EWC, {"ewc_lambda": 0.4}),  # Avalanche's example on split MNIST
        "lwf": Baseline(LwF, {"alpha": 1.0, "temperature": 2.0}),  # Li & Hoiem, 1606.09282
        "er_ace": Baseline(ER_ACE, _REHEARSAL, _whole),
        "der": Baseline(DER, _REHEARSAL, _whole),
        # Mai et al., arXiv 2103.13885: crops and colours; letters are not mirrored
        "scr": Baseline(SCR, {"mem_size": MEMORY, "batch_size_mem": 100}, _projecting),
        "streaming_lda": Baseline(
            _StreamingLDA,
            model=_features,
            mist={"classifier": "train_classifier", "tune_on": "first"},
        ),
        "cumulative": Baseline(Cumulative),
        # the upper bound: from the pretrained weights on all data so far, after each experience
        "joint": Baseline(Cumulative, plugins=lambda: [FromScratchTrainingPlugin()]),
    }
)

# Those with an optimizer.
TRAINED_BASELINES = tuple(
    name
    for name, baseline in BASELINES.items()
    if "optimizer" in inspect.signature(baseline.strategy).parameters
)


def build_baseline(
    name: str,
    backbone: nn.Module,
    n_features: int,
    n_classes: int,
    *,
    image_size: int,
    plugins: Sequence[Any],
    lr: float = LR,
    **arguments: Any,
) -> SupervisedTemplate:
    """One of :data:`BASELINES`, with some of its arguments changed; ``lr`` is of its SGD."""
    check_rate("lr", lr, "(0, inf)")
    baseline = BASELINES[name]
    model = baseline.model(backbone, n_features, n_classes)
    arguments = {
        "train_mb_size": BATCH_SIZE,
        "train_epochs": EPOCHS,
        "eval_mb_size": 64,
        **baseline.settings,
        **arguments,
        "plugins": [*baseline.plugins(), *plugins],
    }
    if name == "streaming_lda":  # it sees every image once, and has no optimizer
        return _StreamingLDA(
            slda_model=model.to(arguments["device"]),
            criterion=nn.CrossEntropyLoss(),
            input_size=n_features,
            num_classes=n_classes,
            **{**arguments, "train_epochs": 1},
        )
    if name == "scr":
        jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
        arguments["augmentations"] = v2.Compose(
            [v2.RandomResizedCrop(image_size, (0.2, 1.0)), jitter]
        )
    else:
        arguments["criterion"] = nn.CrossEntropyLoss()
    return baseline.strategy(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM),
        **arguments,
    )
