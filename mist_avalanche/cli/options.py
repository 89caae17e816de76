"""Options that several subcommands share. Nothing here imports torch before it runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runs import RunConfig


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is JSON where it can be, else a string; commas make a list."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value.split(",") if "," in value else value


def _setting_of(key: str, value: str) -> tuple[str, Any]:
    return setting(f"{key}={value}")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Options with the names of RunConfig; None where they are not given."""
    add = parser.add_argument
    add(
        "--benchmark",
        help="glyphs (default), omniglot, cifar100, cub200, imagenet-r, imagenet-a, cars196, "
        "folder, or a function of your own: package.module:function or ./file.py:function",
    )
    argument = partial(add, action="append", metavar="KEY=VALUE", type=setting)
    argument("--benchmark-arg", dest="benchmark_args", help="argument of the benchmark; repeatable")
    argument("--strategy-arg", dest="strategy_args", help="argument of the strategy; repeatable")
    argument("--mist-arg", dest="mist_args", help="argument of MISTPlugin; repeatable")
    for name in ("tune_epochs", "lr", "batch_size", "select_rate", "drop_rate"):
        argument(
            f"--{name.replace('_', '-')}",
            dest="mist_args",
            metavar="VALUE",
            type=partial(_setting_of, name),
            help=f"of MISTPlugin's tuning, as --mist-arg {name}=VALUE; "
            "a strategy's own training has --strategy-arg",
        )
    add("--dataset-root", metavar="DIR", help="default: Avalanche's data folder")
    add("--experiences", type=int, metavar="N", help="how many (default: 10)")
    add("--seed", type=int, help="of training (default: 0)")
    add("--order-seed", type=int, help="of the class order (default: 1993)")
    add("--backbone", help="'embedded' (default) or a timm name")
    add("--weights", metavar="FILE", help="weights of the backbone, instead of timm's hub")
    add("--image-size", type=int, metavar="PIXELS", help="default: that of the pretraining")
    add("--normalize", help="of the images: published, pretrained, none; default: the backbone's")
    add("--device", help="auto (default), cpu or cuda")
    add("--precision", help="of the backbone: 32 (default) or bf16")
    add("--compile", action="store_true", help="use torch.compile")
    add("--num-workers", type=int, metavar="N", help="of the data loaders (default: 0)")
    add("--quiet", action="store_true", help="no progress")


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Options of run, compare and ablate."""
    add_settings(parser)
    add = parser.add_argument
    add("--first", type=int, metavar="N", help="the first N experiences only")
    add("--seeds", type=int, default=1, metavar="N", help="run N seeds, from --seed on")
    add("--jobs", type=int, metavar="J", help="runs at a time; default: one per GPU or core")
    add("--vary-order", action="store_true", help="a class order of its own for every seed")
    add(
        "--output", metavar="DIR", help="default: results/BENCHMARK-METHOD, -comparison, -ablations"
    )
    add("--logger", default="tensorboard", help="comma-separated: tensorboard, csv, wandb, none")
    add("--resume", action="store_true", help="keep finished runs and go on with stopped ones")
    add("--overwrite", action="store_true", help="replace runs that are there")
    add("--dry-run", action="store_true", help="show what would run, and stop")


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, under the names of RunConfig."""
    from ..runs import RunConfig

    values = {field.name: getattr(args, field.name, None) for field in fields(RunConfig)}
    return {
        name: dict(value) if name.endswith("_args") else value
        for name, value in values.items()
        if value is not None and value is not False
    }


def config_of(args: argparse.Namespace) -> RunConfig:
    """The settings that were given, the others as by default."""
    from ..runs import RunConfig

    return RunConfig(**given_settings(args))
