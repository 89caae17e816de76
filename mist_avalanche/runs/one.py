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
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .._version import __version__
from ..models import create_backbone
from .build import choose_device, make_benchmark, make_mist, make_strategy, names_of_classes
from .checkpoint import Checkpoint, can_resume
from .checks import check_runs
from .config import RunConfig
from .confusion import Confusion
from .folder import SCHEMA, check_free, check_resumable, remove, write_json
from .metrics import accuracy_rows, summarize
from .predict import save_classifier

log = logging.getLogger(__name__)
_PACKAGES = ("torch", "torchvision", "timm", "avalanche-lib", "numpy")


def run(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train on every experience, evaluate on all classes seen so far, write the results.

    ``output`` gets ``results.json``, TensorBoard's event files, and ``checkpoint.pt``, for resuming
    and for :func:`~mist_avalanche.runs.load_run`.

    Args:
        config: the settings.
        output: folder; made where it is missing.
        resume: go on after the last finished experience of a run with the same settings; return
            the results of a finished one as they are.
        overwrite: replace a finished run.
        progress: show progress bars in a terminal.

    Returns:
        The content of results.json; ``docs/results-json.md`` describes it.

    Raises:
        FileNotFoundError: there is no data, or no file with weights.
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
        return finished
    for unfinished in output.glob(".*.tmp"):  # a run was killed while it wrote
        unfinished.unlink()
    return _run(config, output, bars=progress and sys.stderr.isatty())


def _run(config: RunConfig, output: Path, *, bars: bool) -> dict[str, Any]:
    """A run, from where a checkpoint in its folder ends."""
    started = time.perf_counter()
    device = choose_device(config.device)
    _reset_peak_memory(device)
    benchmark = make_benchmark(config)
    stream = benchmark.train_stream[: config.first]
    counts = [len(e.dataset) for e in benchmark.test_stream[: config.first]]
    class_names = names_of_classes(benchmark)
    backbone = create_backbone(config.backbone, config.weights, image_size=config.image_size)
    pretrained = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)

    mist = make_mist(config, verbose=bars) if config.mist else None
    confusion = Confusion(len(class_names))
    board = TensorboardLogger(output / "tensorboard")
    metrics = accuracy_metrics(experience=True, stream=True)
    strategy = make_strategy(
        config,
        backbone,
        len(class_names),
        device=device,
        plugins=[] if mist is None else [mist],
        evaluator=EvaluationPlugin(metrics, confusion, loggers=[board]),
    )
    record: dict[str, Any] = {"correct": [], "train": [], "eval": [], "total": 0.0}
    checkpoint = None
    if can_resume(strategy):
        checkpoint = Checkpoint(output, strategy, settings=config.settings())
        record = checkpoint.load(record)

    correct, earlier, done = record["correct"], record["total"], len(record["correct"])
    steps = tqdm(stream[done:], config.label, len(stream), initial=done, disable=not bars)
    with logging_redirect_tqdm(), contextlib.closing(board.writer):
        for t, experience in enumerate(steps, done):
            began = time.perf_counter()
            strategy.train(experience, num_workers=config.num_workers)
            trained = time.perf_counter()
            found = strategy.eval(benchmark.test_stream[: t + 1], num_workers=config.num_workers)
            record["train"].append(round(trained - began, 3))
            record["eval"].append(round(time.perf_counter() - trained, 3))
            correct.append([_correct(found, i, counts[i]) for i in range(t + 1)])
            record["confusion"] = confusion.summary([e.classes_in_this_experience for e in stream])
            record["total"] = round(earlier + time.perf_counter() - started, 3)
            if checkpoint is not None:
                checkpoint.save(record)
            which = f"{config.label}, seed {config.seed}: experience {t + 1} of {len(stream)}"
            log.info("%s, accuracy %.1f %%", which, summarize(correct, counts)["A_T"])

    results = {
        "schema": SCHEMA,
        "config": {**config.settings(), "split": getattr(benchmark, "split_name", None)},
        "metrics": summarize(correct, counts),
        "accuracy": accuracy_rows(correct, counts),
        "classes_seen": np.cumsum([len(e.classes_in_this_experience) for e in stream]).tolist(),
        "test_images": counts,
        "class_names": class_names,
        "confusion": record["confusion"],
        "inputs": config.inputs,
        "timing": {name: record[name] for name in ("train", "eval", "total")},
        "parameters": _parameters(strategy.model, backbone, pretrained),
        "memory": _peak_memory(device),
        "environment": environment(device),
    }
    if mist is not None and mist.selection is not None:
        results["mist"] = {
            "selected_fraction": mist.selection.fraction,
            "updated_fraction": mist.updated_fraction,
            "overlaps": mist.overlaps,
            "losses": mist.losses,
            "layers": [list(row) for row in mist.selection.rows()],
        }
    write_json(results, output / "results.json")  # from here on the run is finished
    save_classifier(strategy, output, config.settings())
    (output / "error.txt").unlink(missing_ok=True)
    return results


def _correct(metrics: Mapping[str, float], experience: int, count: int) -> int:
    """Number of correct test images of an experience."""
    begin, end = "Top1_Acc_Exp/eval_phase/", f"/Exp{experience:03d}"
    found = (v for k, v in metrics.items() if k.startswith(begin) and k.endswith(end))
    return round(next(found) * count)


def _parameters(
    model: nn.Module, backbone: nn.Module, pretrained: Mapping[str, Tensor]
) -> dict[str, int]:
    """Entries of the model and of its backbone, how many train, and how many have changed."""
    parts = dict(backbone.named_parameters())
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "backbone": sum(p.numel() for p in parts.values()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "updated": sum(int((parts[n].cpu() != p.cpu()).sum()) for n, p in pretrained.items()),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for the record."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux knows more
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        processor = names[0] if names else processor
    return {
        "python": platform.python_version(),
        "mist_avalanche": __version__,
        **{package: version(package) for package in _PACKAGES},
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": processor,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux


def _peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: torch's on a GPU, else the process's; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return 1024 * int(found[1])
    return None
