"""Suggests a learning rate for a backbone and images, from the first experience only."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.training.plugins import EvaluationPlugin
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from ..strategies import SimpleCIL
from ..utils import check_integer, check_rate
from .build import choose_device, make_backbone, make_benchmark, make_mist
from .config import RunConfig

log = logging.getLogger(__name__)
LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_HELD_OUT = 5  # every fifth image per class is held out


class Trial(NamedTuple):
    """Result of one learning rate; None stands for the frozen backbone.

    ``accuracy`` is that of a nearest-mean classifier on held-out images, in percent. ``gain`` is
    the gain over the frozen backbone in points, paired by image, with ± ``half_width`` (95 %).
    """

    lr: float | None
    accuracy: float
    gain: float = 0.0
    half_width: float = 0.0
    n_images: int = 0  # number of images held out in any of the splits


def suggest(
    config: RunConfig, lrs: Sequence[float] = LRS, n_splits: int = 1, *, progress: bool = True
) -> list[Trial]:
    """Try learning rates of MIST on the training images of the first experience.

    A fifth of each class is held out. MIST tunes on one half of the classes. A nearest-mean
    classifier of both halves is then evaluated on the held-out images, so half of them belong to
    classes that MIST has not seen. No test images or later experiences are used.

    Args:
        config: settings of the run to find a learning rate for; its ``seed`` draws the first split.
        lrs: learning rates to try.
        n_splits: number of random splits into held-out images and halves.
        progress: show progress bars in a terminal.

    Returns:
        The frozen backbone, then the learning rates in order.

    Raises:
        ValueError: the first experience has fewer than four classes, or a class with one image.
    """
    check_integer("n_splits", n_splits, 1)
    lrs = [check_rate("lr", lr, "(0, inf)") for lr in lrs]
    dataset = make_benchmark(config).train_stream[0].dataset
    targets = torch.as_tensor(list(dataset.targets))
    if (classes := len(torch.unique(targets))) < 4:
        raise ValueError(
            f"The first experience has {classes} classes; `suggest` needs at least four. Use fewer "
            "experiences (--experiences)."
        )
    trials: list[Trial] = []
    frozen = torch.zeros(0)
    disable = None if progress else True  # None: disabled without a terminal
    for lr in tqdm((None, *lrs), "learning rates", disable=disable, leave=False):
        mist_args = {**config.mist_args, "lr": lr, "tune_on": "first"}
        tried = replace(config, mist=lr is not None, mist_args=mist_args)
        seeds = range(config.seed, config.seed + n_splits)
        runs = (replace(tried, seed=seed) for seed in seeds)
        measured = [_measure(run, dataset, targets, progress) for run in runs]
        rows, correct = (torch.cat(parts) for parts in zip(*measured, strict=True))
        times = torch.bincount(rows)  # how often each image was held out
        shares = torch.bincount(rows, correct)[times > 0] / times[times > 0]
        frozen = shares if lr is None else frozen
        gain = 100 * (shares - frozen)  # per image
        n = len(gain)
        spread = stats.t.ppf(0.975, n - 1) * float(gain.std()) / n**0.5
        half_width = 0.0 if lr is None else spread or 300 / n  # by the rule of three
        accuracy = 100 * float(shares.mean())
        trials.append(Trial(lr, accuracy, float(gain.mean()), half_width, n))
        log.info("%s: accuracy %.1f %%", "frozen" if lr is None else f"lr {lr:g}", accuracy)
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The most accurate trial; the first one if several are equally accurate."""
    return max(trials, key=lambda t: round(t.accuracy, 6))


def split_classes(targets: Tensor, seed: int) -> tuple[list[Tensor], Tensor]:
    """Training rows of targets (n,) for each half of the classes, and held-out rows."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.unique(targets)
    order = classes[torch.randperm(len(classes), generator=generator)]
    kept, held_out = [], []
    for y in order.tolist():
        rows = (targets == y).nonzero().flatten()
        if len(rows) < 2:
            raise ValueError(f"Class {y} has one image; at least two are needed.")
        rows = rows[torch.randperm(len(rows), generator=generator)]
        n = max(1, len(rows) // _HELD_OUT)
        kept.append(rows[n:])
        held_out.append(rows[:n])
    half = len(order) // 2
    return [torch.cat(kept[:half]), torch.cat(kept[half:])], torch.cat(held_out)


def _measure(
    config: RunConfig, dataset: Any, targets: Tensor, progress: bool
) -> tuple[Tensor, Tensor]:
    """Held-out rows (n,), and whether they are classified correctly (n,), 0 or 1."""
    halves, held_out = split_classes(targets, config.seed)
    strategy = SimpleCIL(
        model=make_backbone(config),
        plugins=[make_mist(config, verbose=progress)] if config.mist else [],
        evaluator=EvaluationPlugin(loggers=[]),
        device=choose_device(config.device),
    )
    torch.manual_seed(config.seed)
    parts = [dataset.subset(rows.tolist()) for rows in halves]
    for experience in benchmark_from_datasets(train=parts).train_stream:
        strategy.train(experience)
    tests = dataset.subset(held_out.tolist()).eval()
    cosines, labels, _ = strategy.extract(tests, strategy.model)
    return held_out, (cosines.argmax(1) == labels).float().cpu()
