"""Options that several subcommands share. Nothing here imports torch before it runs."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runs import RunConfig

# no options, or options that say what to do with the others
_NOT_SAVED = {"command", "execute", "parser", "command_line", "help"} | {
    *("config", "save", "dry_run", "plan", "gather"),
}


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is JSON where it can be, else a string; commas make a list."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    found = _plain(value)
    several = isinstance(found, str) and "," in found
    return key, [_plain(part) for part in value.split(",")] if several else found


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


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
    parser.set_defaults(parser=parser)
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML or JSON with options, as --save writes it")
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
    add("--launcher", help="where runs are computed: local (default) or slurm")
    add(
        "--slurm",
        metavar="KEY=VALUE",
        action="append",
        type=setting,
        help="partition, time (minutes), gpus_per_node, array_parallelism, … of its jobs; "
        "repeatable",
    )
    add("--gather", action="store_true", help="report what is finished, name the rest, run nothing")
    add("--dry-run", action="store_true", help="show what would run, and stop")
    add("--save", metavar="FILE.yaml", help="write the options, for --config")
    add("--plan", metavar="FILE", help="write each run as a command, one per line, and stop")


def with_options_file(
    args: argparse.Namespace, parser: argparse.ArgumentParser, given: list[str]
) -> argparse.Namespace:
    """The arguments with the options in the ``--config`` file, over which those given win."""
    import yaml

    from ..utils import nearest_first

    try:
        content = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{args.config}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{args.config} is not a mapping of options to values.")
    if {"schema", "model_name"} & content.keys():
        return args  # settings of a run, which `run` reads
    known = {action.dest for action in args.parser._actions} - _NOT_SAVED
    if unknown := content.keys() - known:
        near = nearest_first(min(unknown), known)
        raise ValueError(f"{args.config} has no option {min(unknown)!r}. Options are {near}.")
    args.parser.set_defaults(**{name: _default(value) for name, value in content.items()})
    args = parser.parse_args(given)
    args.config = None
    return args


def _default(value: Any) -> Any:
    """A value of a file as argparse has it; 1e-3 is a string in YAML."""
    if isinstance(value, dict):
        return [setting(f"{name}={_text(v)}") for name, v in value.items()]
    return _text(value) if isinstance(value, list) else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as a ``--config`` file has them."""
    given = {k: v for k, v in vars(args).items() if k not in _NOT_SAVED and v not in (None, False)}
    return {k: dict(v) if isinstance(v, list) else v for k, v in given.items()}


def write_options(options: Mapping[str, Any], file: Path) -> None:
    """Write a file for ``--config``."""
    import yaml

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(dict(options), sort_keys=False), encoding="utf-8")


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, under the names of RunConfig."""
    from ..runs import RunConfig

    values = {field.name: getattr(args, field.name, None) for field in fields(RunConfig)}
    return {
        name: dict(value) if name.endswith("_args") else value
        for name, value in values.items()
        if value is not None and value is not False
    }


def config_of(args: argparse.Namespace) -> "RunConfig":
    """The settings that were given, the others as by default."""
    from ..runs import RunConfig

    return RunConfig(**given_settings(args))
