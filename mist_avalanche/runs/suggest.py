"""A learning rate for one's own backbone and images, from the first experience alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from tqdm.auto import tqdm

from .._support.checks import check_integer, check_rate
from .._support.progress import hidden
from ..method.losses import TEMPERATURE
from ..models.backbones import create_backbone
from ..plugin import MISTPlugin
from ..strategies import SimpleCIL
from .config import BENCHMARKS, LRS, RunConfig
from .runner import choose_device

_HELD_OUT = 5  # of so many images of a class, one


@dataclass(frozen=True)
class Trial:
    """One learning rate, tried.

    Args:
        lr: None for the frozen backbone.
        accuracy: of a nearest-mean classifier on held-out images, in percent, mean over splits.
        loss: its cross-entropy over the same images, of cosines over MIST's temperature.
    """

    lr: float | None
    accuracy: float
    loss: float


def suggest(
    config: RunConfig, lrs: Sequence[float] = LRS, n_splits: int = 1, *, progress: bool = True
) -> list[Trial]:
    """Learning rates of MIST, tried on the training images of the first experience.

    A fifth of each class is held out. MIST is tuned on one half of the classes, and a nearest-mean
    classifier of both halves is judged on the held-out images, so that half of what is judged are
    classes to come. No test image and no later experience is looked at.

    Args:
        config: of the run that the learning rate is for; its ``seed`` draws the first split.
        lrs: learning rates.
        n_splits: draws of the held-out images and of the halves.
        progress: show a bar.

    Returns:
        The frozen backbone, then the learning rates in order.

    Raises:
        ValueError: the first experience has fewer than four classes, or classes of fewer than two
            images.
    """
    check_integer("n_splits", n_splits, 1)
    lrs = [check_rate("lr", lr, "(0, inf)") for lr in lrs]
    device = choose_device(config.device)
    benchmark = BENCHMARKS[config.benchmark](config)
    dataset = benchmark.train_stream[0].dataset
    targets = torch.as_tensor(list(dataset.targets))
    if (classes := len(torch.unique(targets))) < 4:
        raise ValueError(
            f"The first experience has {classes} classes, and a learning rate is tried on two "
            f"halves of two at least. Use at most {len(benchmark.class_names) // 4} experiences "
            "(--experiences)."
        )
    backbone = create_backbone(config.backbone, config.weights, image_size=config.image_size)
    given = replace(config, mist=True).settings()["mist_args"]
    found: dict[float | None, list[tuple[float, float]]] = {lr: [] for lr in (None, *lrs)}
    for split in range(n_splits):
        seed = config.seed + split
        halves = split_classes(targets, seed)
        parts = [[dataset.subset(rows.tolist()) for rows in half] for half in halves]
        train, held_out = zip(*parts, strict=True)
        stream = benchmark_from_datasets(train=list(train), test=list(held_out))
        for lr in tqdm(found, f"split {split}", disable=hidden(progress), leave=False):
            torch.manual_seed(seed)
            plugins = []
            if lr is not None:
                own = {"lr": lr, "seed": seed, "tune_on": "first", "verbose": False}
                plugins = [MISTPlugin(**{"precision": config.precision, **given, **own})]
            found[lr].append(_judged(copy.deepcopy(backbone), stream, plugins, device))
    return [
        Trial(lr, *(mean(values) for values in zip(*judged, strict=True)))
        for lr, judged in found.items()
    ]


def best(trials: Sequence[Trial]) -> Trial:
    """The most accurate; of several, the one of least loss."""
    return min(trials, key=lambda t: (-round(t.accuracy, 6), t.loss))


def split_classes(targets: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Rows to train on and rows held out, of each half of the classes.

    Args:
        targets: (n,) class of each row.
        seed: of the halves and of what is held out.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.unique(targets)
    order = classes[torch.randperm(len(classes), generator=generator)]
    found = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        kept, out = [], []
        for y in half.tolist():
            rows = (targets == y).nonzero().flatten()
            if len(rows) < 2:
                raise ValueError(f"Class {y} has one image; one of two at least is held out.")
            rows = rows[torch.randperm(len(rows), generator=generator)]
            n = max(1, len(rows) // _HELD_OUT)
            kept.append(rows[n:])
            out.append(rows[:n])
        found.append((torch.cat(kept), torch.cat(out)))
    return found


def _judged(
    backbone: nn.Module, stream: Any, plugins: list[MISTPlugin], device: torch.device
) -> tuple[float, float]:
    """Accuracy in percent, and loss, over both halves after both were trained on."""
    metrics = accuracy_metrics(stream=True), loss_metrics(stream=True)
    strategy = SimpleCIL(
        model=backbone,
        plugins=plugins,
        criterion=Cosines(),
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
        train_mb_size=64,
        eval_mb_size=64,
        device=device,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    result = strategy.eval(stream.test_stream)
    accuracy, loss = (
        next(value for key, value in result.items() if key.startswith(name))
        for name in ("Top1_Acc_Stream/", "Loss_Stream/")
    )
    return 100 * accuracy, loss


class Cosines(nn.Module):
    """Cross-entropy of cosines over MIST's temperature."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch."""
        return nn.functional.cross_entropy(logits / TEMPERATURE, labels)
