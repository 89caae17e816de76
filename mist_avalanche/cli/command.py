"""The command ``mist-avalanche``: a run, several methods side by side, ablations, datasets."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._support.disk import only_one
from .._support.distributed import processes, rank
from .._support.signals import Terminated, ending_cleanly, stop_asked
from .._version import __version__
from ..benchmarks.storage import datasets as data
from ..benchmarks.storage.catalog import DATASETS
from ..benchmarks.transforms import NORMALIZATIONS
from ..method.layers_figure import selection_figure
from ..method.selection import LayerShare, share_table
from ..models.forward import PRECISIONS
from ..reports import report
from ..reports.page import write_page
from ..reports.pictures import write_board
from ..reports.tables import table, write_tables
from ..runs.ablations import ablated
from ..runs.config import BENCHMARKS, RunConfig
from ..runs.experiments import default_jobs, hide_avalanche_warnings, run_methods
from ..runs.reference_config import read_config
from ..runs.settings_check import check_settings, plan
from ..strategies.registry import COMPARED, COMPUTED_STRATEGIES, STRATEGIES
from .delta import add_delta, execute_delta
from .predict import add_predict, execute_predict

# arguments of MISTPlugin that people change most, as options of their own
_SHORT: dict[str, type] = {
    "tune_epochs": int,
    "lr": float,
    "batch_size": int,
    "select_rate": float,
    "drop_rate": float,
}


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is JSON where it can be, else a string; commas make a list."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value.split(",") if "," in value else value


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    top = argparse.ArgumentParser("mist-avalanche", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)

    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    default = RunConfig()
    add("--benchmark", choices=BENCHMARKS, default=default.benchmark)
    add("--benchmark-arg", type=_setting, action="append", default=[], metavar="KEY=VALUE")
    add("--strategy-arg", type=_setting, action="append", default=[], metavar="KEY=VALUE")
    add("--mist-arg", type=_setting, action="append", default=[], metavar="KEY=VALUE")
    for name, kind in _SHORT.items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=kind, metavar=kind.__name__.upper(), help=f"short for --mist-arg {name}=…")
    add("--dataset-root", metavar="DIR", help="default: Avalanche's data folder")
    add("--experiences", type=int, default=default.experiences)
    add("--seed", type=int, default=default.seed, help="of training")
    add("--seeds", type=int, default=1, metavar="N", help="run N seeds, from --seed on")
    add("--jobs", type=int, metavar="J", help="runs at a time; default: one a GPU or a core")
    add("--order-seed", type=int, default=default.order_seed, help="of the class order")
    add("--vary-order", action="store_true", help="a class order of its own for every seed")
    add("--backbone", default=default.backbone, help="'embedded' or a name of timm")
    add("--weights", metavar="FILE", help="weights of the backbone, instead of timm's hub")
    add(
        "--normalize",
        choices=NORMALIZATIONS,
        help="of the images: as in the published runs, as the backbone was pretrained, or none "
        "(default: published for the paper's ViT, pretrained for others)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default=default.device)
    add("--precision", choices=PRECISIONS, default=default.precision, help="of the backbone")
    add("--compile", action="store_true", help="use torch.compile")
    add("--num-workers", type=int, default=default.num_workers, help="of the data loaders")
    add("--output", metavar="DIR", help="default: results/BENCHMARK-METHOD")
    add("--resume", action="store_true", help="go on where runs of the same settings were stopped")
    add("--overwrite", action="store_true", help="replace finished runs")
    add("--dry-run", action="store_true", help="show what would run, and stop")
    add(
        "--checkpoint-every",
        type=float,
        default=default.checkpoint_every,
        metavar="SECONDS",
        help="between two checkpoints while MIST tunes (default: %(default)s); there is one after "
        "each experience anyway",
    )
    add("--quiet", action="store_true", help="no progress bars")

    run = commands.add_parser("run", parents=[common], help="one method")
    run.add_argument("--strategy", choices=STRATEGIES, default=default.strategy)
    run.add_argument("--mist", action="store_true", help="add MISTPlugin")
    run.add_argument(
        "--config",
        metavar="FILE.json",
        help="the results.json of a run, to repeat it; or settings of the reference "
        "implementation, instead of benchmark, strategy, mist, experiences and order seed",
    )
    run.add_argument(
        "--drift-compensation",
        action="store_true",
        help="let simplecil or ranpac follow a backbone that is tuned again",
    )
    compare = commands.add_parser("compare", parents=[common], help="several methods")
    compare.add_argument(
        "--strategies",
        default=",".join(COMPARED),
        help="comma-separated; '+mist' adds MISTPlugin, '+drift' drift compensation "
        "(default: %(default)s)",
    )
    ablate = commands.add_parser("ablate", parents=[common], help="what parts of MIST are worth")
    ablate.add_argument("--strategies", default="simplecil,ranpac", help="comma-separated")
    add_predict(commands)
    inspect = commands.add_parser("inspect", help="where MIST may move the backbone, of one run")
    inspect.add_argument("results", type=Path, help="results.json, or the folder that has it")
    _add_data(commands.add_parser("data", help="the image datasets on disk"))
    add_delta(commands.add_parser("delta", help="what tuning changed, as a small file"))
    return top


def _add_data(command: argparse.ArgumentParser) -> None:
    """``data list | get | check``."""
    actions = command.add_subparsers(dest="action", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", metavar="DIR", help="default: Avalanche's data folder")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    actions.add_parser("list", parents=[common], help="which there are, and where copies are")
    get = actions.add_parser("get", parents=[common], help="download from the official source")
    check = actions.add_parser("check", parents=[common], help="read every image of a copy")
    check.add_argument("--split", help="official, processed or hash; default: what is there")
    for action in (get, check):
        action.add_argument("name", choices=DATASETS)


def _config(args: argparse.Namespace) -> RunConfig:
    short = {name: value for name in _SHORT if (value := getattr(args, name)) is not None}
    twice = short.keys() & dict(args.mist_arg).keys()
    if twice:
        raise ValueError(f"{sorted(twice)[0]!r} is given twice, also as --mist-arg.")
    return RunConfig(
        benchmark=args.benchmark,
        mist_args={**dict(args.mist_arg), **short},
        strategy_args=dict(args.strategy_arg),
        benchmark_args=dict(args.benchmark_arg),
        dataset_root=args.dataset_root,
        experiences=args.experiences,
        seed=args.seed,
        order_seed=args.order_seed,
        backbone=args.backbone,
        weights=args.weights,
        normalize=args.normalize,
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        num_workers=args.num_workers,
        checkpoint_every=args.checkpoint_every,
    )


def _methods(args: argparse.Namespace) -> dict[str, RunConfig]:
    """The methods in the order asked for, by the names that tables and folders have."""
    base = _config(args)
    if args.command == "run" and args.config:
        for name in ("benchmark", "strategy", "mist", "experiences", "order_seed"):
            if getattr(args, name) != getattr(RunConfig, name):
                option = name.replace("_", "-")
                raise ValueError(f"--config decides what --{option} says. Leave one of them away.")
        base = replace(base, drift_compensation=args.drift_compensation)
        runs = read_config(args.config, base)
        if len(runs) > 1:
            runs = [replace(r, name=f"{r.label}-order-{r.order_seed}") for r in runs]
        return {r.label: r for r in runs}
    if args.command == "run":
        one = replace(
            base,
            strategy=args.strategy,
            mist=args.mist,
            drift_compensation=args.drift_compensation,
        )
        return {one.label: one}
    methods = {}
    for name in args.strategies.split(","):
        strategy, *additions = name.strip().split("+")
        allowed = {"mist", "drift"} if args.command == "compare" else set()
        if strategy not in STRATEGIES or not {*additions} <= allowed:
            raise ValueError(f"Unknown method {name!r}. Use {_ALLOWED[args.command]}.")
        one = replace(
            base,
            strategy=strategy,
            mist="mist" in additions,
            drift_compensation="drift" in additions,
        )
        methods.update({one.label: one} if args.command == "compare" else ablated(one))
    return methods


_ALLOWED = {
    "compare": f"{', '.join(STRATEGIES)}, each also with '+mist', "
    f"{' and '.join(COMPUTED_STRATEGIES)} also with '+drift'",
    "ablate": ", ".join(STRATEGIES),
}


def _execute(args: argparse.Namespace) -> None:
    """``mist-avalanche run | compare | ablate``."""
    methods = _methods(args)
    one = len(methods) == 1 and args.command == "run"
    name = next(iter(methods)) if one else _FOLDERS[args.command]
    benchmark = next(iter(methods.values())).benchmark
    output = Path(args.output or f"results/{benchmark}-{name}")
    check_settings([*methods.values()])
    if args.dry_run or not args.quiet:
        print(plan([*methods.values()], args.seeds, output))
    if args.dry_run:
        return
    with processes(args.device), only_one(output, "command") if not rank() else nullcontext():
        runs = run_methods(
            [(config, output if one else output / label) for label, config in methods.items()],
            args.seeds,
            vary_order=args.vary_order,
            jobs=default_jobs(args.device) if args.jobs is None else args.jobs,
            resume=args.resume,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
        if rank():
            return  # the first process writes
        finished = {label: r for label, r in zip(methods, runs, strict=True) if r}
        print(f"\n{table(finished)}\n")
        if not one:
            file = write_tables(finished, output, _FOLDERS[args.command])
            report.plot_accuracy(finished, output / "accuracy.png")
            write_board(finished, output / "tensorboard")
            print(f"Table: {file}, also .csv, .json and .tex")
        what = ", ".join(finished) if len(finished) < 5 else f"{len(finished)} methods"
        write_page(finished, output / "report.html", f"{benchmark}: {what}")
        print(f"Report: {output / 'report.html'}\nEverything: {output}")
    failed = args.seeds * len(methods) - sum(map(len, runs))
    if failed:
        raise RuntimeError(f"{failed} run(s) failed; --resume runs them again, and no other.")


def _inspect(args: argparse.Namespace) -> None:
    """``mist-avalanche inspect``: the shares as text, and ``layers.png`` beside the results."""
    file = report.run_folder(args.results) / "results.json"
    found = json.loads(file.read_text())
    rows = found.get("mist", {}).get("layers")
    if not rows:
        raise ValueError(f"{file} is of a run without MISTPlugin, or of an earlier version.")
    print(share_table([LayerShare(*row) for row in rows]))
    picture = file.with_name("layers.png")
    selection_figure(rows).savefig(picture, dpi=150)
    print(f"Picture: {picture}")


def _execute_data(args: argparse.Namespace) -> int:
    """``mist-avalanche data``; 1 where a check found something."""
    if args.action == "list":
        print(data.listing(args.root))
        return 0
    if args.action == "get":
        print(data.get(args.name, args.root, progress=not args.quiet))
        return 0
    found = data.check(args.name, args.root, args.split, progress=not args.quiet)
    print(found)
    return 0 if found.sound else 1


_FOLDERS = {"run": "orders", "compare": "comparison", "ablate": "ablations"}
_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    **dict.fromkeys(("run", "compare", "ablate"), _execute),
    "data": _execute_data,
    "inspect": _inspect,
    "predict": execute_predict,
    "delta": execute_delta,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Errors of the user are one line."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hide_avalanche_warnings()
    with ending_cleanly():
        try:
            return _COMMANDS[args.command](args) or 0
        except KeyboardInterrupt:
            number = signal.SIGINT
        except Terminated:
            number = signal.SIGTERM
        except (
            ValueError,
            OSError,
            ArithmeticError,
            MemoryError,
            RuntimeError,
            TypeError,
        ) as error:
            asked = stop_asked()  # a signal to all processes ends a data loader's workers, too
            if asked is None:
                print(f"mist-avalanche: {error}", file=sys.stderr)
                return 1
            number = signal.Signals(asked)
    again = "--resume goes on" if hasattr(args, "resume") else "the same command goes on"
    what = "terminated" if number == signal.SIGTERM else "stopped"
    print(f"mist-avalanche: {what}; {again}", file=sys.stderr)
    return 128 + number
