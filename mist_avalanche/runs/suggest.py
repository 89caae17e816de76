"""A learning rate for one's own backbone and images, from the first experience alone."""

from __future__ import annotations

import copy
import sys
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

from ..method.losses import TEMPERATURE
from ..models import create_backbone
from ..plugin import MISTPlugin
from ..strategies import SimpleCIL
from ..utils import check_integer, check_rate
from .build import choose_device, make_benchmark, make_mist
from .config import RunConfig

LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_HELD_OUT = 5  # one of so many images per class


@dataclass(frozen=True)
class Trial:
    """One learning rate, tried.

    Args:
        lr: None for the frozen backbone.
        accuracy: of a nearest-mean classifier on held-out images, in percent, mean over splits.
        loss: its cross-entropy on the same images, of cosines divided by MIST's temperature.
    """

    lr: float | None
    accuracy: float
    loss: float


def suggest(
    config: RunConfig, lrs: Sequence[float] = LRS, n_splits: int = 1, *, progress: bool = True
) -> list[Trial]:
    """Learning rates of MIST, tried on the training images of the first experience.

    A fifth of each class is held out. MIST tunes on one half of the classes; a nearest-mean
    classifier of both halves is then evaluated on the held-out images, so half of them are of
    classes that MIST has not seen. No test image and no later experience is used.

    Args:
        config: of the run that the learning rate is for; its ``seed`` draws the first split.
        lrs: learning rates.
        n_splits: draws of the held-out images and of the halves.
        progress: show a progress bar in a terminal.

    Returns:
        The frozen backbone, then the learning rates in order.

    Raises:
        ValueError: the first experience has fewer than four classes, or a class with one image.
    """
    check_integer("n_splits", n_splits, 1)
    lrs = [check_rate("lr", lr, "(0, inf)") for lr in lrs]
    device = choose_device(config.device)
    dataset = make_benchmark(config).train_stream[0].dataset
    targets = torch.as_tensor(list(dataset.targets))
    if (classes := len(torch.unique(targets))) < 4:
        raise ValueError(
            f"The first experience has {classes} classes; `suggest` needs at least four. Use fewer "
            "experiences (--experiences)."
        )
    backbone = create_backbone(config.backbone, config.weights, image_size=config.image_size)
    found: dict[float | None, list[tuple[float, float]]] = {lr: [] for lr in (None, *lrs)}
    for split in range(n_splits):
        seed = config.seed + split
        halves = split_classes(targets, seed)
        parts = [[dataset.subset(rows.tolist()) for rows in half] for half in halves]
        train, held_out = zip(*parts, strict=True)
        stream = benchmark_from_datasets(train=list(train), test=list(held_out))
        hidden = not (progress and sys.stderr.isatty())
        for lr in tqdm(found, f"split {split + 1} of {n_splits}", disable=hidden, leave=False):
            torch.manual_seed(seed)
            plugins = []
            if lr is not None:
                mist_args = {**config.mist_args, "lr": lr, "tune_on": "first"}
                tried = replace(config, mist=True, seed=seed, mist_args=mist_args)
                plugins = [make_mist(tried, verbose=False)]
            found[lr].append(_evaluate(copy.deepcopy(backbone), stream, plugins, device))
    return [
        Trial(lr, *(mean(values) for values in zip(*measured, strict=True)))
        for lr, measured in found.items()
    ]


def best(trials: Sequence[Trial]) -> Trial:
    """The most accurate trial; of equally accurate ones, that with the lowest loss."""
    return min(trials, key=lambda t: (-round(t.accuracy, 6), t.loss))


def split_classes(targets: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Rows to train on and rows held out, for each half of the classes in targets (n,)."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.unique(targets)
    order = classes[torch.randperm(len(classes), generator=generator)]
    found = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        kept, out = [], []
        for y in half.tolist():
            rows = (targets == y).nonzero().flatten()
            if len(rows) < 2:
                raise ValueError(f"Class {y} has one image; at least two are needed.")
            rows = rows[torch.randperm(len(rows), generator=generator)]
            n = max(1, len(rows) // _HELD_OUT)
            kept.append(rows[n:])
            out.append(rows[:n])
        found.append((torch.cat(kept), torch.cat(out)))
    return found


def _evaluate(
    backbone: nn.Module, stream: Any, plugins: list[MISTPlugin], device: torch.device
) -> tuple[float, float]:
    """Accuracy in percent and loss on both halves, after training on both."""
    metrics = accuracy_metrics(stream=True), loss_metrics(stream=True)
    strategy = SimpleCIL(
        model=backbone,
        plugins=plugins,
        criterion=Cosines(),
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
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
    """Cross-entropy of cosines divided by MIST's temperature."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch, of logits (B, C) and labels (B,)."""
        return nn.functional.cross_entropy(logits / TEMPERATURE, labels)
