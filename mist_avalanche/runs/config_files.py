"""Settings files for ``--config``: a results.json, or one of the reference implementation."""

import json
import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..benchmarks.stream import experience_sizes
from ..utils import check_choice, check_integer
from .build import digests_now
from .config import RunConfig
from .results import read_results

log = logging.getLogger(__name__)

_DATASETS = {  # the reference's name -> our name and the number of classes
    "cifar100": ("cifar100", 100),
    "cifar224": ("cifar100", 100),
    "cub": ("cub200", 200),
    "imagenetr": ("imagenet-r", 200),
    "imageneta": ("imagenet-a", 200),
    **dict.fromkeys(("cars", "cars196", "stanfordcars"), ("cars196", 196)),
}
_PROCESSED = ("cub200", "imagenet-r", "imagenet-a")  # of which it reads PILOT's copies
_BACKBONES = {
    "vit_b16_224_in21k": "vit_base_patch16_224.augreg_in21k",
    "vit_base_patch16_224_in21k": "vit_base_patch16_224.augreg_in21k",
    "vit_b16_224": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_base_patch16_224": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "embedded": "embedded",  # for a trial without a download
}
# Our settings that a file of the reference decides, and its keys.
_DECIDES = {
    **{"benchmark": "dataset", "strategy": "model_name", "mist": "model_name"},
    **{"experiences": "increment", "order_seed": "seed"},
}
# The reference tunes before every experience, and its optimizer moves every entry.
_PUBLISHED = {"score_on": "every", "tune_on": "every", "dynamics": "reference"}
# Share of each tensor's entries that the reference protects; at least the single maximum.
_PROTECTED = {"ranpac": 0.0005, "simplecil": 1e-12}


def read_config(file: str | Path, given: Mapping[str, Any]) -> list[RunConfig]:
    """The runs that a settings file describes.

    A results.json describes its run. A file of the reference implementation describes one run per
    seed; its seeds are those of the class order.

    Args:
        file: a JSON file.
        given: other arguments of :class:`RunConfig`, such as the folder of the data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has an impossible value, or sets an argument that is also given.
    """
    try:
        content = dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is not a JSON object of settings: {error}.") from error
    decided: Mapping[str, str] = _DECIDES
    if "config" in content:
        places = {"dataset_root", "weights", "device", "num_workers"}
        decided = {f.name: "config" for f in fields(RunConfig) if f.name not in places}
    for name in given:
        if name in decided:
            raise ValueError(f"{file} already sets `{name}`, by its `{decided[name]}`. Omit it.")
    if "config" in content:
        return [_again(Path(file), given)]
    try:
        return _reference(content, given)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _again(file: Path, given: Mapping[str, Any]) -> RunConfig:
    """The run of a results.json."""
    results = read_results(file)
    config = RunConfig.from_results(results)
    now, then = digests_now(replace(config, **given), {}), results.get("digests", {})
    if changed := [name for name in sorted(now) if now[name] != then.get(name, now[name])]:
        log.warning("%s was made with other data: %s differ.", file, ", ".join(changed))
    strategy_args = dict(config.strategy_args)
    if strategy_args.get("seed") == config.seed:
        del strategy_args["seed"]  # filled in from the run's seed, which --seeds changes
    return replace(config, strategy_args=strategy_args, **given)


def _reference(content: dict[str, Any], given: Mapping[str, Any]) -> list[RunConfig]:
    """The runs of a reference file; removes the keys that it has read from ``content``."""
    model = str(content.pop("model_name", "")).lower()
    check_choice("model_name", model, ("ranpac_mist", "simplecil_mist", "ranpac", "simplecil"))
    strategy, _, mist = model.partition("_")
    dataset = str(content.pop("dataset", None)).lower()
    benchmark, n_classes = _DATASETS[check_choice("dataset", dataset, _DATASETS)]
    processed = {"split": "processed"} if benchmark in _PROCESSED else {}
    key = "backbone_type" if "backbone_type" in content else "convnet_type"
    named = str(content.pop(key, None))
    if not (backbone := given.get("backbone")):
        backbone = _BACKBONES.get(named.lower().removeprefix("pretrained_"))
        if backbone is None:
            check_choice(key, named, _BACKBONES)
    if not isinstance(shuffle := content.pop("shuffle", True), bool):
        raise ValueError(f"Expected `shuffle` to be true or false, got {shuffle!r}.")
    seeds = content.pop("seed", RunConfig.order_seed)
    seeds = seeds if isinstance(seeds, list) else [seeds]

    settings: dict[str, Any] = {
        **given,
        "benchmark": benchmark,
        "benchmark_args": {"shuffle": shuffle, **processed},
        "experiences": _experiences(content, n_classes),
        "strategy": strategy,
        "strategy_args": {},
        "mist": bool(mist),
        "mist_args": _mist_args(content, strategy) if mist else {},
        "backbone": backbone,
    }
    if strategy == "ranpac" and "M" in content:
        settings["strategy_args"]["n_random_features"] = content.pop("M")
    for name in ("benchmark_args", "strategy_args", "mist_args"):
        settings[name] = {**settings[name], **given.get(name, {})}
    if not mist and "mi_epochs" in content:
        log.warning("This runs without MIST; `model_name` %r has it.", f"{strategy}_mist")
    if content:
        log.info("Ignored, because they do not affect this run: %s.", ", ".join(content))
    return [RunConfig(**settings, order_seed=check_integer("seed", seed, 0)) for seed in seeds]


def _mist_args(content: dict[str, Any], strategy: str) -> dict[str, Any]:
    """Arguments of MISTPlugin."""
    args = {**_PUBLISHED, "protect_rate": content.pop("spr", _PROTECTED[strategy])}
    for key in ("batch_size", "select_rate", "drop_rate"):
        if key in content:
            args[key] = content.pop(key)
    if "mi_epochs" in content:  # the first one only scores
        args["tune_epochs"] = max(0, check_integer("mi_epochs", content.pop("mi_epochs"), 0) - 1)
    return args


def _experiences(content: dict[str, Any], n_classes: int) -> int:
    """The number of experiences of ``increment`` classes each."""
    increment = check_integer("increment", content.pop("increment", None), 1)
    first = content.pop("init_cls", None) or increment
    n_experiences = -(-n_classes // increment)
    if first != increment or experience_sizes(n_classes, n_experiences)[0] != increment:
        raise ValueError(
            f"Expected `init_cls` (or 0) and `increment` that split {n_classes} classes evenly "
            f"(only the last experience may be smaller), got {first} and {increment}."
        )
    return n_experiences
