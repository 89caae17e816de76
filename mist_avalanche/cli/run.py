"""``mist-avalanche run | compare | ablate``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from .._support.disk import only_one
from .._support.distributed import processes, rank
from ..reports.columns import chosen
from ..reports.page import write_page
from ..reports.pictures import write_figures
from ..reports.tables import cost_table, table, write_tables
from ..reports.words import lead
from ..runs.ablations import ablated, sentences
from ..runs.config import RunConfig
from ..runs.experiments import default_jobs, run_methods, runs_of
from ..runs.reference_config import read_config
from ..runs.results import check_free, check_same_settings
from ..runs.settings_check import check_order_varies, check_settings, only_used, plan
from ..strategies.names import COMPUTED_STRATEGIES, STRATEGIES, display_name
from .options import SHORT

_FOLDERS = {"run": "orders", "compare": "comparison", "ablate": "ablations"}
_NAMED = (  # None where they are not given
    *("benchmark", "dataset_root", "experiences", "first", "seed", "order_seed"),
    *("backbone", "weights", "image_size", "normalize", "precision"),
)
_ALLOWED = {
    "compare": f"{', '.join(STRATEGIES)}, each also with '+mist', "
    f"{' and '.join(COMPUTED_STRATEGIES)} also with '+drift'",
    "ablate": ", ".join(STRATEGIES),
}


def execute(args: argparse.Namespace) -> None:
    """Run what was asked for, and write its tables, pictures and report.

    Raises:
        ValueError: a setting that is not known, or without effect.
        RuntimeError: a run failed.
    """
    carry_out(_methods(args), args)


def carry_out(methods: Mapping[str, RunConfig], args: argparse.Namespace) -> None:
    """Run methods, by the names that tables and folders have; see :func:`execute`.

    Args:
        methods: settings of each.
        args: options of ``run``, ``compare`` or ``ablate`` that are not of one method.
    """
    one = len(methods) == 1 and args.command == "run"
    name = next(iter(methods)) if one else _FOLDERS[args.command]
    benchmark = next(iter(methods.values())).benchmark
    output = Path(args.output or f"results/{benchmark}-{name}")
    check_settings([*methods.values()])
    columns = chosen(getattr(args, "columns", None))
    if args.vary_order:
        check_order_varies([*methods.values()], args.seeds)
    folders = {label: output if one else output / label for label in methods}
    if args.dry_run or not args.quiet:
        print(plan([*methods.values()], args.seeds, output))
    if args.dry_run:
        if args.resume:
            for run in _runs(methods, folders, args):
                check_same_settings(*run)
        return
    check_free(output, resume=args.resume, overwrite=args.overwrite)
    with processes(args.device), only_one(output, "command") if not rank() else nullcontext():
        runs = run_methods(
            [(config, folders[label]) for label, config in methods.items()],
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
        done = {(label, r["config"]["seed"]) for label, found in finished.items() for r in found}
        failed = [
            _failure(config, folder)
            for config, folder in _runs(methods, folders, args)
            if (config.label, config.seed) not in done
        ]
        print("\n".join(["", *failed, lead(finished), "", table(finished, columns=columns)]))
        print(f"\n{cost_table(finished)}\n")
        if not one:
            file = write_tables(finished, output, _FOLDERS[args.command], columns)
            print(f"Tables: {file}, also .csv, .json and .tex, and {file.stem}-costs.*")
        drawn = write_figures(finished, output, board=not one)
        what = (
            ", ".join(map(display_name, finished))
            if len(finished) < 5
            else f"{len(finished)} methods"
        )
        write_page(
            finished,
            output / "report.html",
            f"{benchmark}: {what}",
            command=args.command_line,
            columns=columns,
            notes=sentences(finished) if args.command == "ablate" else {},
            failed=failed,
            drawn=drawn,
        )
        print(f"Report: {output / 'report.html'}\nEverything: {output}")
    if failed:
        raise RuntimeError(f"{len(failed)} run(s) failed; --resume runs them again, and no other.")


def _runs(
    methods: Mapping[str, RunConfig], folders: Mapping[str, Path], args: argparse.Namespace
) -> list[tuple[RunConfig, Path]]:
    """The settings and the folder of every run."""
    return [
        run
        for label, config in methods.items()
        for run in runs_of(
            only_used(config), folders[label], args.seeds, vary_order=args.vary_order
        )
    ]


def _failure(config: RunConfig, folder: Path) -> str:
    """A run that has failed, and its error."""
    error = (folder / "error.txt").read_text().strip().splitlines()[-1]
    return f"{display_name(config.label)}, seed {config.seed}, failed: {error}"


def config_of(args: argparse.Namespace) -> RunConfig:
    """The settings that all methods share."""
    short = {name: value for name in SHORT if (value := getattr(args, name)) is not None}
    twice = short.keys() & dict(args.mist_arg).keys()
    if twice:
        raise ValueError(f"{sorted(twice)[0]!r} is given twice, also as --mist-arg.")
    given = {name: value for name in _NAMED if (value := getattr(args, name, None)) is not None}
    return RunConfig(
        **given,
        mist_args={**dict(args.mist_arg), **short},
        strategy_args=dict(args.strategy_arg),
        benchmark_args=dict(args.benchmark_arg),
        device=args.device,
        compile=args.compile,
        num_workers=args.num_workers,
        checkpoint_every=getattr(args, "checkpoint_every", RunConfig.checkpoint_every),
    )


def _methods(args: argparse.Namespace) -> dict[str, RunConfig]:
    """The methods in the order asked for, by the names that tables and folders have."""
    base = config_of(args)
    if args.command == "run" and args.config:
        given = {n for n in (*_NAMED, "strategy") if getattr(args, n) is not None}
        given |= {"mist"} if args.mist else set()
        base = replace(base, drift_compensation=args.drift_compensation)
        runs = read_config(args.config, base, given)
        if len(runs) > 1:
            runs = [replace(r, name=f"{r.label}-order-{r.order_seed}") for r in runs]
        return {r.label: r for r in runs}
    if args.command == "run":
        one = replace(
            base,
            strategy=args.strategy or RunConfig.strategy,
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
