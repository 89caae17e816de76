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

# not options, or options that control how the others are used
_NOT_SAVED = {"command", "execute", "parser", "command_line", "help"} | {
    *("config", "save", "dry_run", "plan", "gather"),
}


def setting(text: str) -> tuple[str, Any]:
    """Parse KEY=VALUE; the value is JSON if possible, else a string; commas make a list."""
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
    """Add options with the names of RunConfig; None if they are not given."""
    add = parser.add_argument
    add(
        "--benchmark",
        help="glyphs (default), omniglot, cifar100, cub200, imagenet-r, imagenet-a, cars196, "
        "folder, or your own function: package.module:function or ./file.py:function",
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
            help=f"short for --mist-arg {name}=VALUE, for MISTPlugin's tuning; "
            "use --strategy-arg for a strategy's own training",
        )
    add("--dataset-root", metavar="DIR", help="data folder (default: Avalanche's)")
    add("--experiences", type=int, metavar="N", help="number of experiences (default: 10)")
    add("--seed", type=int, help="training seed (default: 0)")
    add("--order-seed", type=int, help="seed of the class order (default: 1993)")
    add("--backbone", help="'embedded' (default) or a timm name")
    add("--weights", metavar="FILE", help="backbone weights, instead of those from timm's hub")
    add("--image-size", type=int, metavar="PIXELS", help="pixels per side (default: as pretrained)")
    add("--normalize", help="published, pretrained or none (default: depends on the backbone)")
    add("--device", help="auto (default), cpu or cuda")
    add("--precision", help="backbone precision: 32 (default) or bf16")
    add("--compile", action="store_true", help="use torch.compile")
    add("--num-workers", type=int, metavar="N", help="workers per data loader (default: 0)")
    add("--quiet", action="store_true", help="show no progress")


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Add the options of run, compare and ablate."""
    add_settings(parser)
    parser.set_defaults(parser=parser)
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE",
        help="YAML or JSON file with options, as written by --save; `run` also "
        "takes a results.json, or a settings file of MIST's published code",
    )
    add("--first", type=int, metavar="N", help="run only the first N experiences")
    add("--seeds", type=int, default=1, metavar="N", help="run N seeds, starting at --seed")
    add("--jobs", type=int, metavar="J", help="parallel runs (default: one per GPU or core)")
    add("--vary-order", action="store_true", help="use a different class order for each seed")
    add(
        "--output", metavar="DIR", help="default: results/BENCHMARK-METHOD, -comparison, -ablations"
    )
    add("--logger", default="tensorboard", help="comma-separated: tensorboard, csv, wandb, none")
    add("--resume", action="store_true", help="keep finished runs and continue stopped ones")
    add("--overwrite", action="store_true", help="replace existing runs")
    add("--launcher", help="where runs are computed: local (default) or slurm")
    add(
        "--slurm",
        metavar="KEY=VALUE",
        action="append",
        type=setting,
        help="parameters of Slurm jobs: partition, time (minutes), gpus_per_node, "
        "array_parallelism, …; repeatable",
    )
    add("--gather", action="store_true", help="run nothing; report finished runs, list the others")
    add("--dry-run", action="store_true", help="show what would be run, and stop")
    add("--save", metavar="FILE.yaml", help="write the options to a file for --config")
    add("--plan", metavar="FILE", help="write one command per run to a file, and stop")


def with_options_file(
    args: argparse.Namespace, parser: argparse.ArgumentParser, given: list[str]
) -> argparse.Namespace:
    """The arguments with the options of the ``--config`` file; given options override those."""
    import yaml

    from ..utils import nearest_first

    try:
        content = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{args.config}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{args.config} is not a mapping from options to values.")
    if {"schema", "model_name"} & content.keys():
        if getattr(args, "command", None) != "run":
            raise ValueError(f"{args.config} has the settings of one method. Use them with `run`.")
        return args
    known = {action.dest for action in args.parser._actions} - _NOT_SAVED
    if unknown := content.keys() - known:
        near = nearest_first(min(unknown), known)
        raise ValueError(f"{args.config} has no option {min(unknown)!r}. Options are {near}.")
    args.parser.set_defaults(**{name: _default(value) for name, value in content.items()})
    args = parser.parse_args(given)
    args.config = None
    return args


def _default(value: Any) -> Any:
    """A value from a file in argparse's form: settings as pairs, all but booleans as text."""
    if isinstance(value, dict):
        return [(name, _parsed(v)) for name, v in value.items()]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, bool | None) else str(value)


def _parsed(value: Any) -> Any:
    """A setting from a file; 1e-3 is a string in YAML."""
    if isinstance(value, list):
        return [_parsed(v) for v in value]
    return _plain(value) if isinstance(value, str) else value


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, in the form of a ``--config`` file."""
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
    """The given settings, with defaults for the others."""
    from ..runs import RunConfig

    return RunConfig(**given_settings(args))
