"""Settings files of the reference implementation, as settings of a run.

The reference's runs are JSON files in PILOT's format. What they decide here, what has no meaning
here and what is gone is said; a key that nobody knows is an error.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .._support.checks import check_integer
from .._support.safetensors import strict_json
from ..benchmarks.storage.catalog import DATASETS
from ..benchmarks.stream import experience_sizes
from ..models.defaults import EMBEDDED
from .config import SCHEMA, RunConfig

log = logging.getLogger(__name__)
_DATASETS = MappingProxyType(
    {
        "cifar100": "cifar100",
        "cifar224": "cifar100",
        "icifar100": "cifar100",
        "icifar224": "cifar100",
        "cub": "cub200",
        "cub200": "cub200",
        "imagenetr": "imagenet-r",
        "imageneta": "imagenet-a",
        "ina": "imagenet-a",
        "cars": "cars196",
        "cars196": "cars196",
        "stanfordcars": "cars196",
    }
)
_BACKBONES = MappingProxyType(
    {
        EMBEDDED: EMBEDDED,  # for a trial
        "vitb16224in21k": "vit_base_patch16_224.augreg_in21k",
        "vitbasepatch16224in21k": "vit_base_patch16_224.augreg_in21k",
        "vitb16224": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "vitbasepatch16224": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    }
)
# what may be another when a run is repeated
_PLACES = ("dataset_root", "weights", "device", "num_workers", "checkpoint_every")
_DECIDED = "{} decides what `{}` is. Leave it away."
_USED = (
    "dataset",
    "init_cls",
    "increment",
    "model_name",
    "convnet_type",
    "backbone_type",
    "batch_size",
    "select_rate",
    "drop_rate",
    "mi_epochs",
    "M",
    "seed",
    "shuffle",
    "spr",
)
_IGNORED = MappingProxyType(
    {
        "prefix": "names the log file",
        "device": "use --device",
        "memory_size": "no images are kept",
        "memory_per_class": "no images are kept",
        "fixed_memory": "no images are kept",
        "use_RP": "RanPAC always projects; n_random_features=0 does not",
        "tuned_epoch": "the classifier is computed, not trained",
        "epochs": "the classifier is computed, not trained",
        "init_epoch": "the classifier is computed, not trained",
        "body_lr": "use --mist-arg lr=…",
        "head_lr": "use --mist-arg projection_lr=…",
        "init_lr": "use --mist-arg lr=…",
        "lr": "use --mist-arg lr=…",
        "weight_decay": "5e-4, as published",
        "min_lr": "the rate is constant",
        "optimizer": "the tuning has its own",
        "scheduler": "the rate is constant",
        "num_workers": "use --num-workers",
        "data_path": "use --dataset-root",
        "pretrained": "backbones are always pretrained",
        "debug": "there is no such mode",
    }
)


def read_config(
    file: str | Path, base: RunConfig, given_too: Collection[str] = ()
) -> list[RunConfig]:
    """The runs that a settings file describes: of the reference implementation, one a seed.

    Or the run of a results.json, to be repeated; where the data and the weights are, the device,
    and what changes no number may be others.

    The reference's ``seed`` orders the classes and nothing else. Its epochs of MIST count the pass
    that scores, and it scores before every experience.

    Args:
        file: JSON.
        base: what the file does not say, such as where the data is.
        given_too: fields of ``base`` that were asked for, even where they are as by default.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no JSON object; an unknown key, with the nearest known one; an impossible value;
            something asked for that the file decides; results of another schema, or of many seeds.
    """
    try:
        given = strict_json(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error
    if not isinstance(given, dict):
        raise ValueError(f"{file} is not a JSON object of settings.")
    if {"schema", "config", "metrics"} <= given.keys():
        return [_again(given, file, base, given_too)]
    for name in ("benchmark", "strategy", "mist", "experiences", "order_seed"):
        if name in given_too:
            raise ValueError(_DECIDED.format(file, name))
    for key in given:
        if key in _IGNORED:
            log.info("%s: %s is ignored: %s.", file, key, _IGNORED[key])
        elif key not in _USED:
            near = difflib.get_close_matches(key, (*_USED, *_IGNORED), 1, 0.0)[0]
            raise ValueError(f"{file} has the unknown key {key!r}. The nearest known is {near!r}.")
    try:
        for key in _idle(given):
            log.info("%s: %s has no meaning for %s.", file, key, given.get("model_name"))
        return _configs(given, base)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from error


def _again(
    given: Mapping[str, Any], file: str | Path, base: RunConfig, given_too: Collection[str]
) -> RunConfig:
    """The run of a results.json."""
    if given["schema"] != SCHEMA:
        raise ValueError(f"{file} is of schema {given['schema']}, this is {SCHEMA}.")
    if "seeds" in given:
        raise ValueError(
            f"{file} is the summary of seeds {given['seeds']}. Give the results.json of one of "
            "them, and --seeds for as many."
        )
    try:
        found = RunConfig.of_results(given)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} has no settings of a run: {error}.") from error
    default, here = RunConfig(), {}
    for name in (f.name for f in fields(RunConfig)):
        value = getattr(base, name)
        if value == getattr(default, name) and name not in given_too:
            continue
        if name not in _PLACES:
            raise ValueError(_DECIDED.format(file, name))
        here[name] = value
    return replace(found, **here)


def _idle(given: Mapping[str, Any]) -> list[str]:
    """Keys of what the method has not."""
    method = str(given.get("model_name", "")).lower()
    idle = [] if "ranpac" in method else ["M"]
    if "mist" not in method:
        idle += ["batch_size", "select_rate", "drop_rate", "mi_epochs", "spr"]
    return [key for key in idle if key in given]


def _configs(given: Mapping[str, Any], base: RunConfig) -> list[RunConfig]:
    strategy, *mist = str(given.get("model_name", "")).lower().split("_")
    if strategy not in ("ranpac", "simplecil") or mist not in ([], ["mist"]):
        raise ValueError(
            f"Expected `model_name` ranpac_mist, simplecil_mist, ranpac or simplecil, got "
            f"{given.get('model_name')!r}."
        )
    dataset = _known("dataset", given.get("dataset"), _DATASETS)
    config = replace(
        base,
        benchmark=dataset,
        strategy=strategy,
        mist=bool(mist),
        experiences=_experiences(given, DATASETS[dataset].n_classes or 0),
        mist_args={**_mist_args(given), **base.mist_args} if mist else dict(base.mist_args),
        strategy_args=dict(base.strategy_args),
        benchmark_args={"shuffle": _flag(given, "shuffle"), **base.benchmark_args},
        backbone=_backbone(given, base.backbone),
    )
    if strategy == "ranpac" and "M" in given:
        args = {"n_random_features": check_integer("M", given["M"], 0), **config.strategy_args}
        config = replace(config, strategy_args=args)
    return [replace(config, order_seed=seed) for seed in _seeds(given, base.order_seed)]


def _backbone(given: Mapping[str, Any], asked_for: str) -> str:
    """The file's backbone, unless another than the default one was asked for."""
    named = given.get("convnet_type", given.get("backbone_type"))
    if asked_for != EMBEDDED:
        return asked_for
    if named is None:
        raise ValueError("`convnet_type` is missing: name the backbone, or use --backbone.")
    return _known("convnet_type", str(named).removeprefix("pretrained_"), _BACKBONES)


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, True)
    if value not in (True, False):
        raise ValueError(f"Expected `{key}` to be true or false, got {value!r}.")
    return bool(value)


def _seeds(given: Mapping[str, Any], default: int) -> list[int]:
    seeds = given.get("seed", default)
    seeds = seeds if isinstance(seeds, list) else [seeds]
    if not seeds or len({*seeds}) < len(seeds):
        raise ValueError(f"Expected `seed` to be different integers, at least one, got {seeds}.")
    return [check_integer("seed", seed, 0) for seed in seeds]


def _known(key: str, value: Any, names: Mapping[str, str]) -> str:
    """What a value means, whatever its case and punctuation."""
    plain = "".join(c for c in str(value).lower() if c.isalnum())
    if plain not in names:
        raise ValueError(f"Unknown `{key}` {value!r}. Known are {', '.join(names)}.")
    return names[plain]


def _experiences(given: Mapping[str, Any], n_classes: int) -> int:
    """The number of experiences of ``increment`` classes."""
    increment = check_integer("increment", given.get("increment"), 1)
    first = check_integer("init_cls", given.get("init_cls", increment), 0) or increment
    if first != increment:
        raise ValueError(
            f"Expected `init_cls` equal to `increment` (or 0), got {first} and {increment}; "
            "experiences are of one size, the last may be smaller."
        )
    n_experiences = -(-n_classes // increment)
    if experience_sizes(n_classes, n_experiences)[0] != increment:
        raise ValueError(
            f"`increment` {increment} cuts {n_classes} classes into {n_experiences} experiences of "
            "unequal sizes. Use one that leaves the last at most smaller by the rest, such as "
            f"{-(-n_classes // n_experiences)}."
        )
    return n_experiences


def _mist_args(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of MISTPlugin."""
    args: dict[str, Any] = {"score_on": "every"}
    for key in ("batch_size", "select_rate", "drop_rate"):
        if key in given:
            args[key] = given[key]
    if "mi_epochs" in given:
        args["tune_epochs"] = max(0, check_integer("mi_epochs", given["mi_epochs"], 0) - 1)
    if "spr" in given:
        args["protect_rate"] = given["spr"]
    return args
