"""What the settings of a run stand for: its device, benchmark, strategy and MISTPlugin."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..benchmarks import BENCHMARKS
from ..models import create_backbone
from ..plugin import MISTPlugin
from ..strategies.base import arguments_of
from ..strategies.registry import build, find, load
from ..utils import in_mode, nearest_first

if TYPE_CHECKING:
    from .config import RunConfig

# arguments of strategies that have an option of the command
OPTIONS = {
    "model": "--backbone",
    "plugins": "--mist",
    "device": "--device",
    "precision": "--precision",
    "compile": "--compile",
    "drift_compensation": "--drift-compensation",
}


def accepts(build: Callable[..., Any], argument: str) -> bool:
    """Whether a strategy has an argument."""
    return argument in arguments_of(build)


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        RuntimeError: ``cuda`` was asked for and torch finds none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device. Use --device cpu.")
    return torch.device(name)


def find_benchmark(name: str) -> Callable[..., Any]:
    """The function that makes a benchmark, by its name or as ``package.module:function``.

    Raises:
        ValueError: there is none; the message names the nearest ones.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if ":" in name:
        function: Callable[..., Any] = load(name)
        return function
    raise ValueError(
        f"Unknown benchmark {name!r}. Use one of {nearest_first(name, BENCHMARKS)}, or "
        "package.module:function for one of your own."
    )


def make_benchmark(config: RunConfig) -> Any:
    """The benchmark of a run; data folder and inputs go to functions that have these arguments."""
    function, inputs = find_benchmark(config.benchmark), config.inputs
    offered = {
        "dataset_root": config.dataset_root,
        "image_size": inputs["image_size"],
        "normalize": None if inputs["mean"] is None else (inputs["mean"], inputs["std"]),
    }
    taken = inspect.signature(function).parameters
    given = {name: value for name, value in offered.items() if name in taken}
    return function(config.experiences, seed=config.order_seed, **given, **config.benchmark_args)


def names_of_classes(benchmark: Any) -> list[str]:
    """Names of the classes by label; numbers where the benchmark has none."""
    names = getattr(benchmark, "class_names", None)
    if names is None:
        labels = {y for e in benchmark.train_stream for y in e.classes_in_this_experience}
        names = range(max(labels) + 1)
    return [str(name) for name in names]


def make_backbone(config: RunConfig) -> nn.Module:
    """The backbone with its pretrained weights."""
    return create_backbone(config.backbone, config.weights, image_size=config.image_size)


def make_mist(config: RunConfig, *, verbose: bool) -> MISTPlugin:
    """The plugin with the settings of a run."""
    common = {"seed": config.seed, "precision": config.precision, "compile": config.compile}
    return MISTPlugin(**{**common, "verbose": verbose, **config.settings()["mist_args"]})


def make_strategy(
    config: RunConfig,
    backbone: nn.Module,
    n_classes: int,
    *,
    device: torch.device,
    plugins: Sequence[Any] = (),
    evaluator: Any = None,
) -> Any:
    """The strategy of a run around a backbone.

    Args:
        config: of the run.
        backbone: images to features.
        n_classes: of the whole benchmark.
        device: of the model.
        plugins: Avalanche plugins.
        evaluator: Avalanche's; None for none.
    """
    info, size = find(config.strategy), config.inputs["image_size"]
    offered = {"precision": config.precision, "compile": config.compile}
    if config.drift_compensation:
        offered["drift_compensation"] = True
    given = {name: value for name, value in offered.items() if accepts(info.build, name)}
    return build(
        info,
        backbone,
        n_features=_width(backbone, size),
        n_classes=n_classes,
        image_size=size,
        device=device,
        plugins=list(plugins),
        evaluator=evaluator,
        **{**given, **config.settings()["strategy_args"]},
    )


@torch.no_grad()
def _width(backbone: nn.Module, image_size: int) -> int:
    """D, measured: timm's ``num_features`` differs from it where the head has layers."""
    with in_mode(backbone, training=False):
        features: torch.Tensor = backbone(torch.zeros(1, 3, image_size, image_size))
    return features.flatten(1).shape[1]
