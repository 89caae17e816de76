"""One class-incremental run: train and evaluate on every experience, then write results.json."""

import copy
import logging
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .build import (
    choose_device,
    digests_of,
    make_backbone,
    make_benchmark,
    make_mist,
    make_strategy,
    names_of_classes,
)
from .checkpoint import Checkpoint, can_resume
from .checks import check_runs
from .config import RunConfig
from .loggers import check_loggers, open_loggers
from .metrics import summarize
from .predict import save_classifier
from .results import clear, finished_results, refuse_to_replace, results_of, write_json

log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    loggers: Sequence[str] = ("tensorboard",),
) -> dict[str, Any]:
    """Train on every experience, evaluate on all classes seen so far, and write the results.

    Args:
        config: the settings.
        output: folder for ``results.json``, the loggers' files, and ``checkpoint.pt``, for
            resuming and for :func:`~mist_avalanche.runs.load_run`.
        resume: continue after the last finished experience of a run with the same settings; if the
            run is finished, return its results.
        overwrite: replace an existing run.
        progress: show progress bars in a terminal.
        loggers: ``"tensorboard"``, ``"csv"``, ``"wandb"``, ``"none"``; they do not affect results.

    Returns:
        The content of results.json; ``docs/results-json.md`` describes it.

    Raises:
        FileNotFoundError: the data or the file with the weights is missing.
        ValueError: the settings contradict each other; a run exists, and neither ``resume`` nor
            ``overwrite`` is given; with ``resume``, the existing run has other settings, images or
            weights; or a logger is unknown.
        ModuleNotFoundError: wandb is not installed.
    """
    check_loggers(loggers)
    (config,) = check_runs([config])
    folder = Path(output)
    refuse_to_replace(folder, resume=resume, overwrite=overwrite)
    if resume and (finished := finished_results(config, folder, {})) is not None:
        return finished
    if not resume:
        clear(folder)
    for unfinished in folder.glob(".*.tmp"):  # a run was killed while writing
        unfinished.unlink()
    return _run(config, folder, loggers, bars=progress and sys.stderr.isatty())


def _run(config: RunConfig, folder: Path, loggers: Sequence[str], *, bars: bool) -> dict[str, Any]:
    """Run, starting from the checkpoint in the folder if there is one."""
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    benchmark = make_benchmark(config)
    backbone = make_backbone(config)
    pretrained = copy.deepcopy(backbone)
    digests = digests_of(benchmark, backbone, config.strategy, config.benchmark)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)

    metrics = accuracy_metrics(experience=True, stream=True) + loss_metrics(epoch=True)
    evaluator = EvaluationPlugin(metrics, loggers=[BaseLogger()])  # it ignores all values
    strategy = make_strategy(
        config,
        backbone,
        len(names_of_classes(benchmark)),
        device=device,
        plugins=[make_mist(config, verbose=bars)] if config.mist else [],
        evaluator=evaluator,
    )
    record: dict[str, Any] = {"correct": [], "train": [], "eval": [], "cpu": 0.0}
    checkpoint = None
    if can_resume(strategy):
        checkpoint = Checkpoint(folder, strategy, benchmark, settings=config.settings() | digests)
        record = checkpoint.load(record)

    stream, tests = benchmark.train_stream[: config.first], benchmark.test_stream[: config.first]
    counts = [len(e.dataset) for e in tests]
    done = len(record["correct"])
    steps = tqdm(stream[done:], config.label, len(stream), initial=done, disable=not bars)
    opened = open_loggers(loggers, folder, config, done)
    with logging_redirect_tqdm(), opened as evaluator.loggers:
        for t, experience in enumerate(steps, done):
            began, worked = time.perf_counter(), sum(os.times()[:4])
            strategy.train(experience, num_workers=config.num_workers)
            trained = time.perf_counter()
            found = strategy.eval(tests[: t + 1], num_workers=config.num_workers)
            record["train"].append(round(trained - began, 3))
            record["eval"].append(round(time.perf_counter() - trained, 3))
            record["cpu"] += sum(os.times()[:4]) - worked  # including data loaders
            record["correct"].append([_correct(found, i, counts[i]) for i in range(t + 1)])
            if checkpoint is not None:
                checkpoint.save(record)
            which = f"{config.label}, seed {config.seed}: experience {t + 1} of {len(stream)}"
            log.info("%s, accuracy %.1f %%", which, summarize(record["correct"], counts)["A_T"])

    results = results_of(config, benchmark, strategy, backbone, pretrained, record, digests)
    write_json(results, folder / "results.json")  # marks the run as finished
    save_classifier(strategy, folder, config.settings())
    (folder / "error.txt").unlink(missing_ok=True)
    return results


def _correct(metrics: Mapping[str, float], experience: int, count: int) -> int:
    """Number of correct test images of an experience."""
    begin, end = "Top1_Acc_Exp/eval_phase/", f"/Exp{experience:03d}"
    found = (v for k, v in metrics.items() if k.startswith(begin) and k.endswith(end))
    return round(next(found) * count)
