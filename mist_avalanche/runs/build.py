"""What the settings of a run stand for: its device, benchmark, MISTPlugin and strategy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.training.plugins.evaluation import default_evaluator
from torch import nn

from ..benchmarks import BENCHMARKS
from ..plugin import MISTPlugin
from ..strategies.base import arguments_of
from ..strategies.registry import build, find, load
from ..utils import in_mode, nearest_first
from .config import RunConfig


def choose_device(name: str) -> torch.device:
    """The device that is named; ``auto`` takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device. Use --device cpu.")
    return torch.device(name)


def find_benchmark(name: str) -> Callable[..., Any]:
    """The function that makes a benchmark, by its name or as ``package.module:function``."""
    if name not in BENCHMARKS and ":" not in name:
        raise ValueError(
            f"Unknown benchmark {name!r}. Use one of {nearest_first(name, BENCHMARKS)}, or "
            "package.module:function for one of your own."
        )
    function: Callable[..., Any] = BENCHMARKS[name] if name in BENCHMARKS else load(name)
    return function


def make_benchmark(config: RunConfig) -> Any:
    """The benchmark of a run; a function gets those of the settings that it has arguments for."""
    function, inputs = find_benchmark(config.benchmark), config.inputs
    offered = {
        "seed": config.order_seed,
        "dataset_root": config.dataset_root,
        "image_size": inputs["image_size"],
        "normalize": None if inputs["mean"] is None else (inputs["mean"], inputs["std"]),
    }
    taken = inspect.signature(function).parameters
    given = {name: value for name, value in offered.items() if name in taken}
    return function(config.experiences, **given, **config.benchmark_args)


def names_of_classes(benchmark: Any) -> list[str]:
    """Names of the classes by label; numbers where the benchmark has no names."""
    labels = {y for e in benchmark.train_stream for y in e.classes_in_this_experience}
    return [str(name) for name in getattr(benchmark, "class_names", range(max(labels) + 1))]


def make_mist(config: RunConfig, *, verbose: bool) -> MISTPlugin:
    """The plugin with the settings of a run."""
    common = {"seed": config.seed, "precision": config.precision, "compile": config.compile}
    return MISTPlugin(**{**common, "verbose": verbose, **config.settings()["mist_args"]})


@torch.no_grad()
def make_strategy(
    config: RunConfig,
    backbone: nn.Module,
    n_classes: int,
    *,
    device: torch.device,
    plugins: Sequence[Any] = (),
    evaluator: Any = default_evaluator,
) -> Any:
    """The strategy of a run around a backbone, for a benchmark of ``n_classes``."""
    info, size = find(config.strategy), config.inputs["image_size"]
    with in_mode(backbone, training=False):  # timm's num_features may be of another layer
        n_features = backbone(torch.zeros(1, 3, size, size)).flatten(1).shape[1]
    offered = ("precision", "compile", "drift_compensation")
    taken = set() if info.is_baseline else arguments_of(info.build)
    return build(
        info,
        backbone,
        n_features=n_features,
        n_classes=n_classes,
        image_size=size,
        device=device,
        plugins=list(plugins),
        evaluator=evaluator,
        **{name: getattr(config, name) for name in offered if name in taken},
        **config.settings()["strategy_args"],
    )
