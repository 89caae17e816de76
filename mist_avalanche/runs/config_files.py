"""Settings files: a results.json, or a JSON file of the reference implementation."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..benchmarks.stream import experience_sizes
from ..utils import check_choice, check_integer, nearest_first
from .config import RunConfig
from .folder import read_results

log = logging.getLogger(__name__)
_DATASETS: Mapping[str, tuple[str, int]] = MappingProxyType(  # our name, number of classes
    {
        **dict.fromkeys(("cifar100", "cifar224", "icifar100", "icifar224"), ("cifar100", 100)),
        **dict.fromkeys(("cub", "cub200"), ("cub200", 200)),
        "imagenetr": ("imagenet-r", 200),
        **dict.fromkeys(("imageneta", "ina"), ("imagenet-a", 200)),
        **dict.fromkeys(("cars", "cars196", "stanfordcars"), ("cars196", 196)),
    }
)
_IN21K = "vit_base_patch16_224.augreg_in21k"
_IN1K = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
_BACKBONES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("vitb16224in21k", "vitbasepatch16224in21k"), _IN21K),
        **dict.fromkeys(("vitb16224", "vitbasepatch16224"), _IN1K),
        "embedded": "embedded",  # for a trial without a download
    }
)
# The reference tunes before every experience, and its optimizer moves every entry.
_PUBLISHED = MappingProxyType({"score_on": "every", "tune_on": "every", "dynamics": "reference"})
# Share of each tensor's entries that it protects; less than one entry: the single maximum.
_PROTECTED = MappingProxyType({"ranpac": 0.0005, "simplecil": 1e-12})
_OF_MIST = ("batch_size", "select_rate", "drop_rate", "mi_epochs", "spr")
_USED = (
    *("dataset", "init_cls", "increment", "shuffle", "seed", "model_name", "M"),
    *("convnet_type", "backbone_type", *_OF_MIST),
)
_IGNORED = (  # by the reference, always so here, or an option of the command
    *("prefix", "device", "num_workers", "data_path", "debug", "pretrained", "use_RP"),
    *("memory_size", "memory_per_class", "fixed_memory", "tuned_epoch", "epochs", "init_epoch"),
    *("lr", "init_lr", "body_lr", "head_lr", "min_lr", "weight_decay", "optimizer", "scheduler"),
)
_PLACES = ("dataset_root", "weights", "device", "num_workers")  # free where a run is repeated


def read_config(file: str | Path, base: RunConfig, given: Collection[str] = ()) -> list[RunConfig]:
    """The runs that a settings file describes.

    A results.json describes its run. A file of the reference describes one run per seed, which is
    there the seed of the class order.

    Args:
        file: JSON.
        base: what the file does not say, such as where the data is.
        given: the fields of ``base`` that were set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has an unknown key or an impossible value, or decides what was set.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a JSON object of settings.")
    decided = {"benchmark", "strategy", "mist", "experiences", "order_seed"}
    if "config" in content:
        decided = {f.name for f in fields(RunConfig)} - {*_PLACES}
    for name in given:
        if name in decided:
            raise ValueError(f"{file} decides `{name}`. Omit it.")
    if "config" in content:
        return [_again(Path(file), base, given)]
    try:
        return _reference(content, base, given)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _again(file: Path, base: RunConfig, given: Collection[str]) -> RunConfig:
    """The run of a results.json."""
    results = read_results(file)
    if "seeds" in results:
        raise ValueError(f"{file} is a summary of seeds. Give the results.json of one of them.")
    config = RunConfig.from_results(results)
    strategy_args = dict(config.strategy_args)
    if strategy_args.get("seed") == config.seed:
        del strategy_args["seed"]  # filled in from the run's seed, which --seeds changes
    places = {name: getattr(base, name) for name in given}
    return replace(config, strategy_args=strategy_args, **places)


def _reference(
    content: Mapping[str, Any], base: RunConfig, given: Collection[str]
) -> list[RunConfig]:
    """The runs of a file of the reference."""
    model = str(content.get("model_name", "")).lower()
    check_choice("model_name", model, ("ranpac_mist", "simplecil_mist", "ranpac", "simplecil"))
    strategy, _, mist = model.partition("_")
    used = {*_USED} - {*(() if mist else _OF_MIST), *(() if strategy == "ranpac" else ("M",))}
    for key in content.keys() - {*_USED, *_IGNORED}:
        near = nearest_first(key, (*_USED, *_IGNORED)).partition(",")[0]
        raise ValueError(f"unknown key {key!r}. The nearest known one is {near!r}.")
    if ignored := [key for key in content if key not in used]:
        log.info("Ignored, as they change nothing in this run: %s.", ", ".join(ignored))

    benchmark, n_classes = _known("dataset", content.get("dataset"), _DATASETS)
    backbone = base.backbone
    if "backbone" not in given:
        named = content.get("convnet_type", content.get("backbone_type"))
        backbone = _known("convnet_type", str(named).removeprefix("pretrained_"), _BACKBONES)
    shuffle = content.get("shuffle", True)
    if not isinstance(shuffle, bool):
        raise ValueError(f"Expected `shuffle` to be true or false, got {shuffle!r}.")
    strategy_args = {"n_random_features": content["M"]} if {"M"} <= content.keys() & used else {}
    config = replace(
        base,
        benchmark=benchmark,
        strategy=strategy,
        mist=bool(mist),
        experiences=_experiences(content, n_classes),
        mist_args={**(_mist_args(content, strategy) if mist else {}), **base.mist_args},
        strategy_args={**strategy_args, **base.strategy_args},
        benchmark_args={"shuffle": shuffle, **base.benchmark_args},
        backbone=backbone,
    )
    seeds = content.get("seed", base.order_seed)
    seeds = seeds if isinstance(seeds, list) else [seeds]
    if not seeds:
        raise ValueError("Expected `seed` to be one or more integers, got none.")
    return [replace(config, order_seed=check_integer("seed", seed, 0)) for seed in seeds]


def _mist_args(content: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """Arguments of MISTPlugin."""
    args = {**_PUBLISHED, "protect_rate": content.get("spr", _PROTECTED[strategy])}
    for key in ("batch_size", "select_rate", "drop_rate"):
        if key in content:
            args[key] = content[key]
    if "mi_epochs" in content:  # the first of which only scores
        args["tune_epochs"] = max(0, check_integer("mi_epochs", content["mi_epochs"], 0) - 1)
    return args


def _experiences(content: Mapping[str, Any], n_classes: int) -> int:
    """The number of experiences of ``increment`` classes each."""
    increment = check_integer("increment", content.get("increment"), 1)
    first = content.get("init_cls") or increment
    n_experiences = -(-n_classes // increment)
    if first != increment or experience_sizes(n_classes, n_experiences)[0] != increment:
        raise ValueError(
            f"Expected `init_cls` (or 0) and `increment` that split {n_classes} classes evenly, "
            f"the last experience being at most smaller, got {first} and {increment}."
        )
    return n_experiences


def _known(key: str, value: Any, names: Mapping[str, Any]) -> Any:
    """What a value means, whatever its case and punctuation."""
    plain = "".join(c for c in str(value).lower() if c.isalnum())
    if plain not in names:
        raise ValueError(f"Unknown `{key}` {value!r}. Use one of {nearest_first(plain, names)}.")
    return names[plain]
