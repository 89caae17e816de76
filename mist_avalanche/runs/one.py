"""One class-incremental run, from its settings to its files."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
import re
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from torch import Tensor, nn
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .._version import __version__
from ..plugin import MISTPlugin
from .build import (
    choose_device,
    make_backbone,
    make_benchmark,
    make_mist,
    make_strategy,
    names_of_classes,
)
from .checkpoint import Checkpoint, can_resume
from .checks import check_runs
from .config import RunConfig
from .confusion import Confusion
from .folder import SCHEMA, check_free, check_resumable, remove, write_json
from .metrics import accuracy_rows, summarize
from .predict import save_classifier

log = logging.getLogger(__name__)
_PACKAGES = ("torch", "torchvision", "timm", "avalanche-lib", "numpy")
_PROCESS = Path("/proc/self")  # Linux


def run(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train on every experience, evaluate on all classes seen so far, write the results.

    ``output`` gets ``results.json``, ``checkpoint.pt`` for resuming and for
    :func:`~mist_avalanche.runs.load_run`, and TensorBoard's event files.

    Args:
        config: the settings.
        output: folder; made where it is missing.
        resume: go on after the last finished experience of a run with the same settings; return
            the results of a finished one as they are.
        overwrite: replace a finished run.
        progress: show progress bars in a terminal.

    Returns:
        The content of results.json; docs/results-json.md describes it.

    Raises:
        FileNotFoundError: there is no data or no file with weights.
        ValueError: the settings do not fit together; a finished run is there, and neither
            ``resume`` nor ``overwrite`` says what to do with it; with ``resume``, a run with other
            settings is there.
    """
    (config,) = check_runs([config])
    output = Path(output)
    check_free(output, resume=resume, overwrite=overwrite)
    if not resume:
        remove(output)
    elif (finished := check_resumable(config, output)) is not None:
        log.info("%s is finished already.", output)
        return finished
    return _run(config, output, resume=resume, bars=progress and sys.stderr.isatty())


def _run(config: RunConfig, output: Path, *, resume: bool, bars: bool) -> dict[str, Any]:
    started = time.perf_counter()
    device = choose_device(config.device)
    _reset_peak_memory(device)
    benchmark = make_benchmark(config)
    stream = benchmark.train_stream[: config.first]
    names = names_of_classes(benchmark)
    counts = [len(e.dataset) for e in benchmark.test_stream[: config.first]]
    backbone = make_backbone(config)
    pretrained = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)

    mist = make_mist(config, verbose=bars) if config.mist else None
    confusion = Confusion(len(names))
    board = TensorboardLogger(output / "tensorboard")
    metrics = accuracy_metrics(experience=True, stream=True)
    strategy = make_strategy(
        config,
        backbone,
        len(names),
        device=device,
        plugins=[p for p in (mist, EpochBar() if bars else None) if p is not None],
        evaluator=EvaluationPlugin(metrics, confusion, loggers=[board]),
    )
    checkpoint, record = None, _new_record()
    if can_resume(strategy):
        checkpoint = Checkpoint(output, strategy, settings=config.settings())
        record = checkpoint.load(record)
    elif resume:
        log.info("%s starts at its first experience: %s keeps no state.", output, config.label)

    done, earlier = len(record["correct"]), record["total"]
    steps = tqdm(stream[done:], config.label, len(stream), initial=done, disable=not bars)
    with logging_redirect_tqdm(), contextlib.closing(board.writer):
        for t, experience in enumerate(steps, done):
            began = time.perf_counter()
            strategy.train(experience, num_workers=config.num_workers)
            trained = time.perf_counter()
            found = strategy.eval(benchmark.test_stream[: t + 1], num_workers=config.num_workers)
            record["train"].append(round(trained - began, 3))
            record["eval"].append(round(time.perf_counter() - trained, 3))
            record["correct"].append([_correct(found, i, counts[i]) for i in range(t + 1)])
            record["confusion"] = confusion.summary([e.classes_in_this_experience for e in stream])
            record["total"] = round(earlier + time.perf_counter() - started, 3)
            if checkpoint is not None:
                checkpoint.save(record)
            log.info(
                "%s, seed %d: experience %d of %d, accuracy %.1f %%",
                *(config.label, config.seed, t + 1, len(stream)),
                summarize(record["correct"], counts)["A_T"],
            )

    correct = record["correct"]
    results = {
        "schema": SCHEMA,
        "config": {**config.settings(), "split": getattr(benchmark, "split_name", None)},
        "metrics": summarize(correct, counts),
        "accuracy": accuracy_rows(correct, counts),
        "classes_seen": np.cumsum([len(e.classes_in_this_experience) for e in stream]).tolist(),
        "test_images": counts,
        "class_names": names,
        "confusion": record["confusion"],
        "inputs": config.inputs,
        "timing": {name: record[name] for name in ("train", "eval", "total")},
        "parameters": _parameters(strategy.model, backbone, pretrained),
        "memory": _peak_memory(device),
        "environment": environment(device),
    }
    if mist is not None and mist.selection is not None:
        results["mist"] = _about_mist(mist)
    write_json(results, output / "results.json")  # from here on the run is finished
    save_classifier(strategy, output, config.settings())
    return results


class EpochBar(SupervisedPlugin):
    """A progress bar for the batches of each epoch."""

    _bar: Any = None

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Start a bar."""
        epoch, epochs = strategy.clock.train_exp_epochs + 1, strategy.train_epochs
        total = len(strategy.dataloader)
        self._bar = tqdm(desc=f"epoch {epoch} of {epochs}", total=total, leave=False)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Count a batch."""
        self._bar.update()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        self._bar.close()


def _new_record() -> dict[str, Any]:
    """What a run has measured before its first experience."""
    return {"correct": [], "train": [], "eval": [], "total": 0.0, "confusion": None}


def _correct(metrics: Mapping[str, float], experience: int, count: int) -> int:
    """Number of correct test images of an experience."""
    begin, end = "Top1_Acc_Exp/eval_phase/", f"/Exp{experience:03d}"
    found = (v for k, v in metrics.items() if k.startswith(begin) and k.endswith(end))
    return round(next(found) * count)


def _parameters(
    model: nn.Module, backbone: nn.Module, pretrained: Mapping[str, Tensor]
) -> dict[str, int]:
    """Entries of the model and of its backbone, how many train, and how many have changed."""
    changed = (
        int((p.detach().cpu() != pretrained[name].cpu()).sum())
        for name, p in backbone.named_parameters()
    )
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "backbone": sum(p.numel() for p in backbone.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "updated": sum(changed),
    }


def _about_mist(mist: MISTPlugin) -> dict[str, Any]:
    """What MIST selected and how its tuning went."""
    assert mist.selection is not None
    return {
        "selected_fraction": mist.selection.fraction,
        "updated_fraction": mist.updated_fraction,
        "overlaps": mist.overlaps,
        "losses": mist.losses,
        "layers": [list(row) for row in mist.selection.rows()],
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "python": platform.python_version(),
        "mist_avalanche": __version__,
        **{package: version(package) for package in _PACKAGES},
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Name of the CPU, as far as the system tells."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: torch's on a GPU, else the process's; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s*(\d+) kB", (_PROCESS / "status").read_text()):
            return 1024 * int(found[1])
    return None
