"""One class-incremental run, from settings to files."""

from __future__ import annotations

import json
import logging
import random
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training.plugins import EvaluationPlugin

from .._support.disk import only_one
from .._support.distributed import processes, rank, world_size
from .._support.memory_use import peak_memory, reset_peak
from .._support.states import tensors_of
from ..models.backbones import create_backbone
from ..models.features import in_mode
from ..plugin import MISTPlugin
from ..reports import report
from ..reports.pictures import write_board
from ..strategies.names import SHARED_STRATEGIES
from ..strategies.registry import OWN_STRATEGIES, build_strategy, takes
from .checkpoint import Checkpoint, NotResumableWarning
from .config import BENCHMARKS, SCHEMA, RunConfig
from .confusion import Confusion
from .metrics import accuracy_rows, summarize
from .prediction import save_classifier
from .progress import CountImages, Meter, Tell, bar_of, to_nobody
from .results import CHECKPOINTS, check_free, earlier_results, environment
from .settings_check import check_settings

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """``auto`` takes the GPU when there is one.

    Raises:
        RuntimeError: ``cuda`` was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device. Use --device cpu.")
    return torch.device(name)


def run(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train on every experience, evaluate on all classes seen, write the results.

    ``output`` gets ``results.json``, the classifier (:func:`~mist_avalanche.runs.load_run`),
    ``figures/accuracy.*`` and TensorBoard's event files; until finished, also ``checkpoints``.
    Started by torchrun, its processes share the work on the run, and the first one writes.

    Args:
        config: the settings.
        output: folder, made when missing.
        resume: go on where a run with the same settings was stopped; take results.json as it is
            where it was finished.
        overwrite: replace a finished run.
        progress: show a progress bar; in a file, a line after each experience.

    Raises:
        ValueError: settings that do not fit or have no effect; a finished run is there, and neither
            ``resume`` nor ``overwrite`` says what to do with it; with ``resume`` other settings
            than the run's that is there, or only damaged checkpoints of it.
        RuntimeError: another run is writing to ``output``.

    Returns:
        The content of results.json, with ``schema``, ``config``, ``metrics`` (percent),
        ``accuracy`` (rows in percent), ``confusion`` (images), ``timing`` (seconds), ``parameters``
        (entries of the model and of the backbone, those that require gradients, and those of the
        backbone that have changed), ``environment``.
    """
    with processes(config.device), bar_of([config], progress and rank() == 0) as bar:
        return run_in_plan(config, output, partial(bar.hear, 0), resume=resume, overwrite=overwrite)


def run_in_plan(
    config: RunConfig, output: str | Path, tell: Tell, *, resume: bool, overwrite: bool
) -> dict[str, Any]:
    """:func:`run`, one of several; ``tell`` hears how far it is."""
    output = Path(output)
    with processes(config.device):
        if config.benchmark not in BENCHMARKS:
            raise ValueError(
                f"Unknown benchmark {config.benchmark!r}. Use one of {', '.join(BENCHMARKS)}."
            )
        check_settings([config])
        if resume and (finished := earlier_results(config, output)):
            log.info("%s is finished already", output)
            return finished
        check_free(output, resume=resume, overwrite=overwrite)
        with only_one(output, "run") if rank() == 0 else nullcontext():
            return _run(config, output, Meter(config, to_nobody if rank() else tell), resume=resume)


def _run(config: RunConfig, output: Path, meter: Meter, *, resume: bool) -> dict[str, Any]:
    """:func:`run`, in one of the processes that share it."""
    begun = (output / "tensorboard").exists()  # before this run has one
    start = time.perf_counter()
    settings = config.settings()
    if world_size() > 1 and config.strategy not in SHARED_STRATEGIES:
        raise ValueError(
            f"Several processes share the work on {', '.join(SHARED_STRATEGIES)} only. Run "
            f"{config.strategy!r} without torchrun."
        )
    json.dumps(settings)  # before the work, not after it
    device = choose_device(config.device)
    reset_peak(device)
    benchmark = BENCHMARKS[config.benchmark](config)
    backbone = create_backbone(config.backbone, config.weights, image_size=config.image_size)
    image_size = config.inputs["image_size"]
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)

    mist = None
    computation = {"precision": config.precision, "compile": config.compile}
    if config.mist:
        mist = MISTPlugin(
            **{"seed": config.seed, "verbose": False, **computation, **settings["mist_args"]}
        )
    strategy_args = settings["strategy_args"]
    if config.drift_compensation:
        strategy_args = {**strategy_args, "drift_compensation": True}
    own = {k: v for k, v in computation.items() if takes(config.strategy, k)}
    strategy_args = {**own, **strategy_args}
    boards = []
    if rank() == 0:
        boards = [TensorboardLogger(output / "tensorboard")]
    plugins: list[Any] = [mist] if mist else []
    if config.strategy not in OWN_STRATEGIES:
        plugins.append(CountImages())
    confusion = Confusion(len(benchmark.class_names))
    accuracies = accuracy_metrics(experience=True, stream=True)
    strategy = build_strategy(
        config.strategy,
        backbone,
        _width(backbone, image_size),
        len(benchmark.class_names),
        image_size=image_size,
        device=device,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracies, confusion, loggers=boards),
        settings=strategy_args,
    )

    pretrained = {name: t.detach().clone() for name, t in tensors_of(backbone).items()}
    stream = benchmark.train_stream[: config.first]
    counts = [len(e.dataset) for e in benchmark.test_stream[: config.first]]
    every, folder = config.checkpoint_every, output / CHECKPOINTS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotResumableWarning)
        checkpoint = Checkpoint(folder, strategy, benchmark, settings=settings, every=every)
    if resume and checkpoint.unsaved and begun:
        unsaved = ", ".join(checkpoint.unsaved)
        log.warning("%s starts over: %s keeps state that cannot be saved.", output, unsaved)
    if not resume:
        checkpoint.remove()
    done = checkpoint.load({"correct": [], "train": [], "eval": [], "total": 0.0})
    earlier, correct = done["total"], done["correct"]
    sizes = [len(e.dataset) for e in stream], counts
    with meter.listening(*sizes, checkpoint.done):
        for t, experience in enumerate(stream[checkpoint.done :], checkpoint.done):
            began = time.perf_counter()
            # persistent_workers would draw less from the global generator, and so change numbers
            strategy.train(experience, num_workers=config.num_workers)
            trained = time.perf_counter()
            metrics = strategy.eval(benchmark.test_stream[: t + 1], num_workers=config.num_workers)
            done["train"].append(round(trained - began, 3))
            done["eval"].append(round(time.perf_counter() - trained, 3))
            correct.append([_correct(metrics, i, counts[i]) for i in range(t + 1)])
            done["confusion"] = confusion.summary([e.classes_in_this_experience for e in stream])
            done["total"] = round(earlier + time.perf_counter() - start, 3)
            checkpoint.save(done)
            accuracy = f"accuracy {summarize(correct, counts)['A_T']:.1f} %"
            meter.ended(f"experience {t + 1} of {len(stream)}, {accuracy}")
    timing = {"train": done["train"], "eval": done["eval"]}
    results = {
        "schema": SCHEMA,
        "config": {**settings, "split": benchmark.split_name},
        "metrics": summarize(correct, counts),
        "accuracy": accuracy_rows(correct, counts),
        "classes_seen": np.cumsum([len(e.classes_in_this_experience) for e in stream]).tolist(),
        "test_images": counts,
        "class_names": list(benchmark.class_names),
        "confusion": done["confusion"],
        "inputs": config.inputs,
        "timing": {**timing, "total": round(earlier + time.perf_counter() - start, 3)},
        "parameters": {
            "total": sum(p.numel() for p in strategy.model.parameters()),
            "backbone": sum(p.numel() for p in backbone.parameters()),
            "trainable": sum(p.numel() for p in strategy.model.parameters() if p.requires_grad),
            "updated": sum(
                int((p.detach().cpu() != pretrained[name].cpu()).sum())
                for name, p in backbone.named_parameters()
            ),
        },
        "memory": peak_memory(device),
        "environment": environment(device),
    }
    if mist is not None and mist.selection is not None:
        results["mist"] = {
            "selected_fraction": mist.selection.fraction,
            "updated_fraction": mist.updated_fraction,
            "overlaps": mist.overlaps,
            "losses": mist.method.losses,
            "layers": [list(row) for row in mist.selection.rows()],
        }
    if rank():
        return results
    save_classifier(strategy.model, pretrained, output, benchmark.class_names, settings)
    report.plot_accuracy({config.label: [results]}, output)
    boards[0].writer.close()
    write_board({config.label: [results]}, output / "tensorboard")
    report.write_json(results, output / "results.json")  # last: with it the run is finished
    (output / "error.txt").unlink(missing_ok=True)
    checkpoint.remove()
    return results


@torch.no_grad()
def _width(backbone: torch.nn.Module, image_size: int) -> int:
    """D of a backbone; timm's ``num_features`` is another number where the head has layers."""
    with in_mode(backbone, training=False):
        features: torch.Tensor = backbone(torch.zeros(1, 3, image_size, image_size))
    return features.flatten(1).shape[1]


def _correct(metrics: Mapping[str, float], experience: int, count: int) -> int:
    key = f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{experience:03d}"
    return round(metrics[key] * count)
