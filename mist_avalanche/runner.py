"""One class-incremental run, from settings to files."""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import NCScenario
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TensorboardLogger
from avalanche.training.plugins import EvaluationPlugin
from tqdm.auto import tqdm

from . import report
from ._disk import only_one
from ._memory_use import PeakMemory
from ._settings import OtherSettingsError, refuse_other_settings
from ._states import tensors_of
from ._version import __version__
from .backbones import EMBEDDED, backbone_defaults, create_backbone
from .benchmarks import (
    SplitCars196,
    SplitCIFAR100,
    SplitCUB200,
    SplitGlyphs,
    SplitImageNetA,
    SplitImageNetR,
    SplitOmniglot,
)
from .checkpoint import EVERY, Checkpoint, NotResumableWarning
from .distributed import processes, rank, world_size
from .features import in_mode
from .metrics import accuracy_rows, summarize
from .pictures import write_board
from .plugin import MISTPlugin
from .prediction import save_classifier
from .strategies.baselines import (
    COMPUTED_STRATEGIES,
    build_strategy,
    check_strategy,
    mist_arguments,
)

log = logging.getLogger(__name__)
SCHEMA = 1
CHECKPOINTS = "checkpoints"  # folder of a run that is not finished
_NO_NUMBERS = ("name", "num_workers", "cache", "checkpoint_every")  # settings that change none


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run; the command's options have the same names.

    Args:
        benchmark: one of :data:`BENCHMARKS`.
        strategy: one of :data:`mist_avalanche.strategies.baselines.STRATEGIES`.
        mist: add a MISTPlugin.
        mist_args: its arguments, over the defaults of the backbone.
        strategy_args: arguments of the strategy, such as RanPAC's ``memory``.
        drift_compensation: let SimpleCIL or RanPAC follow a backbone that is tuned again.
        benchmark_args: arguments of the benchmark, such as ``alphabets``.
        dataset_root: where the data is; None for Avalanche's data folder.
        experiences: number of experiences.
        seed: of training.
        order_seed: of the class order.
        backbone: ``embedded`` or a name of timm.
        weights: a file with its weights, instead of timm's hub.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: of the backbone, in tuning and in simplecil and ranpac: ``32`` or
            ``bf16``.
        compile: use ``torch.compile`` there.
        num_workers: of the data loaders; it changes no number.
        cache: of decoded images, ``ram`` or ``disk``; it changes no number. None for none. Glyphs,
            Omniglot and CIFAR-100 are in memory anyway.
        name: of the method in tables and pictures; None for one made of the above.
        checkpoint_every: seconds between two checkpoints while MIST tunes; it changes no number.
    """

    benchmark: str = "glyphs"
    strategy: str = "simplecil"
    mist: bool = False
    mist_args: Mapping[str, Any] = field(default_factory=dict)
    strategy_args: Mapping[str, Any] = field(default_factory=dict)
    drift_compensation: bool = False
    benchmark_args: Mapping[str, Any] = field(default_factory=dict)
    dataset_root: str | None = None
    experiences: int = 10
    seed: int = 0
    order_seed: int = 1993
    backbone: str = EMBEDDED
    weights: str | None = None
    device: str = "auto"
    precision: str = "32"
    compile: bool = False
    num_workers: int = 0
    cache: str | None = None
    name: str | None = None
    checkpoint_every: float = EVERY

    def settings(self) -> dict[str, Any]:
        """All that decides a run's numbers, the backbone's defaults filled in."""
        defaults = backbone_defaults(self.backbone)
        mist = defaults.mist_for(drift_compensation=self.drift_compensation)
        strategy: dict[str, Any] = {}
        if self.strategy == "ranpac":
            strategy = {"n_random_features": defaults.n_random_features, "seed": self.seed}
        return {
            **{k: v for k, v in asdict(self).items() if k not in _NO_NUMBERS},
            "mist_args": {**mist, **mist_arguments(self.strategy), **self.mist_args}
            if self.mist
            else {},
            "strategy_args": {**strategy, **self.strategy_args},
        }

    @property
    def label(self) -> str:
        """Name of the method, for tables and folders."""
        return self.name or (
            self.strategy
            + ("+mist" if self.mist else "")
            + ("+drift" if self.drift_compensation else "")
        )


def _glyphs(config: RunConfig) -> NCScenario:
    size = backbone_defaults(config.backbone).image_size
    if size != 32:
        raise ValueError(f"glyphs are 32 pixels wide, {config.backbone!r} takes {size}.")
    return SplitGlyphs(config.experiences, seed=config.order_seed, **config.benchmark_args)


def _images(benchmark: Callable[..., NCScenario], config: RunConfig) -> NCScenario:
    size = backbone_defaults(config.backbone).image_size
    return benchmark(
        config.experiences,
        dataset_root=config.dataset_root,
        seed=config.order_seed,
        **{"image_size": size, **config.benchmark_args},
    )


def _photos(benchmark: Callable[..., NCScenario], config: RunConfig) -> NCScenario:
    return _images(partial(benchmark, cache=config.cache), config)


BENCHMARKS: Mapping[str, Callable[[RunConfig], NCScenario]] = MappingProxyType(
    {
        "glyphs": _glyphs,
        "omniglot": partial(_images, SplitOmniglot),
        "cifar100": partial(_photos, SplitCIFAR100),
        "cub200": partial(_photos, SplitCUB200),
        "imagenet-r": partial(_photos, SplitImageNetR),
        "imagenet-a": partial(_photos, SplitImageNetA),
        "cars196": partial(_photos, SplitCars196),
    }
)


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
    config: RunConfig, output: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train on every experience, evaluate on all classes seen, write the results.

    ``output`` gets ``results.json``, the classifier (:func:`~mist_avalanche.prediction.load_run`),
    ``accuracy.png`` and TensorBoard's event files; until it is finished, also ``checkpoints``.
    Started by torchrun, its processes share the work on the run, and the first one writes.

    Args:
        config: the settings.
        output: folder, made when missing.
        resume: go on where a run with the same settings was stopped; take results.json as it is
            where it was finished.
        progress: show progress bars.

    Raises:
        ValueError: settings that do not fit, or with ``resume`` other ones than the run's that is
            there, or only damaged checkpoints of it.
        RuntimeError: another run is writing to ``output``.

    Returns:
        What results.json holds: ``schema``, ``config``, ``metrics`` (percent), ``accuracy`` (rows
        in percent), ``timing`` (seconds), ``memory`` (megabytes), ``parameters`` (entries of the
        model that require gradients, and of the backbone that have changed), ``environment``.
    """
    output = Path(output)
    with processes(config.device):
        if config.benchmark not in BENCHMARKS:
            raise ValueError(
                f"Unknown benchmark {config.benchmark!r}. Use one of {', '.join(BENCHMARKS)}."
            )
        if resume and (finished := _finished(config, output)):
            log.info("%s is finished already", output)
            return finished
        with only_one(output, "run") if rank() == 0 else nullcontext():
            return _run(config, output, resume=resume, progress=progress and rank() == 0)


def _run(config: RunConfig, output: Path, *, resume: bool, progress: bool) -> dict[str, Any]:
    """:func:`run`, in one of the processes that share it."""
    start = time.perf_counter()
    settings = config.settings()
    check_strategy(config.strategy, config.strategy_args, drift=config.drift_compensation)
    if world_size() > 1 and config.strategy not in COMPUTED_STRATEGIES:
        raise ValueError(
            f"Several processes share the work on {' and '.join(COMPUTED_STRATEGIES)} only. Run "
            f"{config.strategy!r} without torchrun."
        )
    json.dumps(settings)  # before the work, not after it
    device = choose_device(config.device)
    peak = PeakMemory(device)
    benchmark = BENCHMARKS[config.benchmark](config)
    backbone = create_backbone(config.backbone, config.weights)
    image_size = backbone_defaults(config.backbone).image_size
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)

    mist = None
    computation = {"precision": config.precision, "compile": config.compile}
    if config.mist:
        mist = MISTPlugin(
            **{"seed": config.seed, "verbose": progress, **computation, **settings["mist_args"]}
        )
    strategy_args = settings["strategy_args"]
    if config.drift_compensation:
        strategy_args = {**strategy_args, "drift_compensation": True}
    if config.strategy in COMPUTED_STRATEGIES:
        strategy_args = {**computation, **strategy_args}
    boards = []
    if rank() == 0:
        boards = [TensorboardLogger(output / "tensorboard")]
    strategy = build_strategy(
        config.strategy,
        backbone,
        _width(backbone, image_size),
        len(benchmark.class_names),
        image_size=image_size,
        device=device,
        plugins=[mist] if mist else [],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=boards),
        settings=strategy_args,
    )

    pretrained = {name: t.detach().clone() for name, t in tensors_of(backbone).items()}
    counts = [len(e.dataset) for e in benchmark.test_stream]
    every, folder = config.checkpoint_every, output / CHECKPOINTS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotResumableWarning)
        checkpoint = Checkpoint(folder, strategy, benchmark, settings=settings, every=every)
    if resume and checkpoint.unsaved:
        unsaved = ", ".join(checkpoint.unsaved)
        log.warning("%s starts over: %s keeps state that cannot be saved.", output, unsaved)
    if not resume:
        checkpoint.remove()
    done = checkpoint.load({"correct": [], "train": [], "eval": [], "total": 0.0})
    earlier, correct = done["total"], done["correct"]
    experiences = tqdm(
        benchmark.train_stream[checkpoint.done :],
        f"{config.label}, seed {config.seed}",
        initial=checkpoint.done,
        total=len(benchmark.train_stream),
        disable=not progress,
    )
    for t, experience in enumerate(experiences, checkpoint.done):
        began = time.perf_counter()
        # persistent_workers would draw less from the global generator, and so change numbers
        strategy.train(experience, num_workers=config.num_workers)
        trained = time.perf_counter()
        metrics = strategy.eval(benchmark.test_stream[: t + 1], num_workers=config.num_workers)
        done["train"].append(round(trained - began, 3))
        done["eval"].append(round(time.perf_counter() - trained, 3))
        correct.append([_correct(metrics, i, counts[i]) for i in range(t + 1)])
        done["total"] = round(earlier + time.perf_counter() - start, 3)
        checkpoint.save(done)
        experiences.set_postfix(accuracy=f"{summarize(correct, counts)['A_T']:.1f} %")
    timing = {"train": done["train"], "eval": done["eval"]}
    results = {
        "schema": SCHEMA,
        "config": {**settings, "split": benchmark.split_name},
        "metrics": summarize(correct, counts),
        "accuracy": accuracy_rows(correct, counts),
        "classes_seen": np.cumsum(
            [len(e.classes_in_this_experience) for e in benchmark.train_stream]
        ).tolist(),
        "test_images": counts,
        "timing": {**timing, "total": round(earlier + time.perf_counter() - start, 3)},
        "memory": {"peak_mb": round(peak.megabytes(), 1)},
        "parameters": {
            "trainable": sum(p.numel() for p in strategy.model.parameters() if p.requires_grad),
            "updated": sum(
                int((p.detach().cpu() != pretrained[name].cpu()).sum())
                for name, p in backbone.named_parameters()
            ),
        },
        "environment": environment(device),
    }
    if mist is not None and mist.selection is not None:
        results["mist"] = {
            "selected_fraction": mist.selection.fraction,
            "updated_fraction": mist.updated_fraction,
            "overlaps": mist.overlaps,
            "layers": [list(row) for row in mist.selection.rows()],
        }
    if rank():
        return results
    save_classifier(strategy.model, pretrained, output, benchmark.class_names, settings)
    report.plot_accuracy({config.label: [results]}, output / "accuracy.png")
    boards[0].writer.close()
    write_board({config.label: [results]}, output / "tensorboard")
    report.write_json(results, output / "results.json")  # last: with it the run is finished
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


def _finished(config: RunConfig, output: Path) -> dict[str, Any] | None:
    """results.json of an earlier run with the same settings, unless a later one was stopped."""
    file = output / "results.json"
    if any((output / CHECKPOINTS).glob("experience-*.pt")):
        return None
    try:
        earlier: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = {k: v for k, v in earlier["config"].items() if k != "split"}
        refuse_other_settings(output, known, config.settings())
        _ = [earlier[key].keys() for key in ("metrics", "timing", "parameters", "environment")]
    except FileNotFoundError:
        return None
    except OtherSettingsError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}). Delete it, or leave --resume away to replace it."
        ) from error
    return earlier


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = ("torch", "torchvision", "timm", "avalanche-lib", "numpy")
    return {
        "python": platform.python_version(),
        "mist_avalanche": __version__,
        **{package: version(package) for package in packages},
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }
