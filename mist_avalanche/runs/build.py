"""Builds what the settings of a run describe: device, benchmark, MISTPlugin and strategy."""

import ast
import inspect
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins.evaluation import default_evaluator
from torch import nn

from ..benchmarks import BENCHMARKS
from ..benchmarks.images import digest_of
from ..models import create_backbone
from ..plugin import MISTPlugin
from ..strategies.base import arguments_of
from ..strategies.registry import find, load
from ..utils import in_mode, nearest_first, state_hash
from .config import RunConfig

log = logging.getLogger(__name__)
_OF_INPUTS = (
    *("benchmark", "benchmark_args", "dataset_root", "experiences", "order_seed"),
    *("backbone", "weights", "image_size", "normalize"),
)


def choose_device(name: str) -> torch.device:
    """The named device; ``auto`` takes a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no CUDA device. Use --device cpu.")
    return torch.device(name)


def find_benchmark(name: str) -> Callable[..., Any]:
    """The function that creates a benchmark, by name or as ``package.module:function``."""
    if name not in BENCHMARKS and ":" not in name:
        raise ValueError(
            f"Unknown benchmark {name!r}. Use one of {nearest_first(name, BENCHMARKS)}, or "
            "package.module:function for your own."
        )
    function: Callable[..., Any] = BENCHMARKS[name] if name in BENCHMARKS else load(name)
    return function


def make_benchmark(config: RunConfig) -> Any:
    """The benchmark of a run; its function receives the settings that it has arguments for.

    Raises:
        ValueError: its images have another size than the inputs of the backbone.
    """
    function, inputs = find_benchmark(config.benchmark), config.inputs
    offered = {
        "seed": config.order_seed,
        "dataset_root": config.dataset_root,
        "image_size": inputs["image_size"],
        "normalize": None if inputs["mean"] is None else (inputs["mean"], inputs["std"]),
    }
    taken = inspect.signature(function).parameters
    given = {name: value for name, value in offered.items() if name in taken}
    benchmark = function(config.experiences, **given, **config.benchmark_args)
    if "image_size" not in taken:
        size, found = inputs["image_size"], benchmark.train_stream[0].dataset[0][0].shape[-1]
        if found != size:
            raise ValueError(
                f"Images of benchmark {config.benchmark!r} have {found} pixels per side, not the "
                f"{size} of {config.backbone!r}. Give its function an argument 'image_size', or "
                f"use --image-size {found}."
            )
    return benchmark


def names_of_classes(benchmark: Any) -> list[str]:
    """Names of the classes by label; numbers if the benchmark has no names."""
    labels = {y for e in benchmark.train_stream for y in e.classes_in_this_experience}
    return [str(name) for name in getattr(benchmark, "class_names", range(max(labels) + 1))]


def digests_of(benchmark: Any, backbone: nn.Module | None, *code: str) -> dict[str, str]:
    """Digests, eight hexadecimal digits each, of the inputs that determine a run's results.

    ``class_names``: in order and by experience. ``training_images``, ``test_images``: their names,
    classes and sizes or, for a custom benchmark, classes and the mean of some images. ``backbone``:
    its weights as loaded, but only the norm of position embeddings, whose last bits after
    resampling depend on the machine. ``code``: the Python files of a custom strategy or benchmark,
    including files that they import from the same folder.
    """
    names, found = names_of_classes(benchmark), dict(getattr(benchmark, "digests", {}))
    rows = [
        f"{t}\t{names[y]}"
        for t, experience in enumerate(benchmark.train_stream)
        for y in sorted(experience.classes_in_this_experience)
    ]
    streams = {"training_images": benchmark.train_stream, "test_images": benchmark.test_stream}
    for part in streams.keys() - found.keys():
        datasets = [experience.dataset.eval() for experience in streams[part]]
        some = [np.asarray(d[i][0]).mean() for d in datasets for i in (0, len(d) // 2, len(d) - 1)]
        targets = [str([int(y) for y in dataset.targets]) for dataset in datasets]
        found[part] = digest_of([*targets, f"{np.mean(some):.4g}"])
    if backbone is not None:
        positions = (v for name, v in backbone.state_dict().items() if "pos_embed" in name)
        norms = [f"{float(position.norm()):.4g}" for position in positions]
        found["backbone"] = digest_of([state_hash(backbone, without="pos_embed").hex(), *norms])
    own = [Path(inspect.getfile(load(name))) for name in code if ":" in name]
    if files := sorted({file for one in own for file in _imported(one)}):
        found["code"] = digest_of(file.read_text(encoding="utf-8") for file in files)
    return {"class_names": digest_of(rows), **found}


def _imported(file: Path) -> set[Path]:
    """A Python file and, recursively, the files that it imports from the same folder."""
    found, todo = set(), [file]
    while todo:
        found.add(file := todo.pop())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(name.name for name in node.names)]
                beside = (file.with_name(f"{name.partition('.')[0]}.py") for name in names)
                todo += [other for other in beside if other.is_file() and other not in found]
    return found


def digests_now(config: RunConfig, known: dict[str, dict[str, str]]) -> dict[str, str]:
    """:func:`digests_of` a run that would start now; empty if its data or weights are missing.

    ``known`` caches the digests by the settings that they depend on.
    """
    code = [name for name in (config.strategy, config.benchmark) if ":" in name]
    key = json.dumps([code, *(getattr(config, name) for name in _OF_INPUTS)], default=dict)
    if key not in known:
        try:
            known[key] = digests_of(make_benchmark(config), make_backbone(config), *code)
        except OSError as error:
            log.warning("Finished runs are accepted without a check of their data: %s", error)
            known[key] = {}
    return known[key]


def make_backbone(config: RunConfig) -> nn.Module:
    """The pretrained backbone of a run."""
    return create_backbone(config.backbone, config.weights, image_size=config.image_size)


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
    """The strategy of a run with a backbone, for a benchmark of ``n_classes``."""
    info, size = find(config.strategy), config.inputs["image_size"]
    with in_mode(backbone, training=False):  # timm's num_features may refer to another layer
        n_features = backbone(torch.zeros(1, 3, size, size)).flatten(1).shape[1]
    offered = ("precision", "compile", "drift_compensation")
    taken = {} if info.is_baseline else arguments_of(info.build)
    sizes = {"n_features": n_features, "n_classes": n_classes, "image_size": size}
    return info.build(
        model=backbone,
        **(sizes if info.is_baseline else {}),
        device=device,
        plugins=list(plugins),
        evaluator=evaluator,
        **{name: getattr(config, name) for name in offered if name in taken},
        **config.settings()["strategy_args"],
    )
