"""Shared by run, compare and ablate: show the plan, run the methods, write the report."""

import argparse
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from tabulate import tabulate

from ..models.defaults import backbone_defaults
from ..reports import cost_table, table, write_figures, write_page, write_tables
from ..reports.labels import display_name
from ..reports.summary import lead
from ..runs import RunConfig, run_methods
from ..runs.build import make_benchmark
from ..runs.checks import check_runs
from ..runs.launchers import Launcher, Run, Slurm, gather
from ..runs.loggers import check_loggers
from ..runs.results import refuse_to_replace, why_missing
from ..runs.run_methods import default_jobs, runs_of
from ..strategies.registry import find
from ..utils import check_choice
from .options import options_of, write_options

log = logging.getLogger(__name__)
_OF_A_METHOD = ("strategy", "strategy_args", "mist", "mist_args", "drift_compensation")


def run_and_report(
    methods: Sequence[RunConfig],
    args: argparse.Namespace,
    kind: str | None,
    *,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run methods, then write tables, figures and one HTML page.

    ``kind`` names the tables and the folder; None stands for a single method, which has no table
    and whose runs are in the output folder itself. ``notes`` are sentences on methods, by label.
    """
    methods = check_runs(methods)
    check_loggers(args.logger.split(","))
    labels = [config.label for config in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"Several methods have the label {label!r}.")
    benchmark = methods[0].benchmark.rpartition(":")[2]
    output = Path(args.output or f"results/{benchmark}-{kind or labels[0]}")
    if args.dry_run or not args.quiet:
        print(f"{plan(methods, args.seeds, output)}\n")
    if args.save:
        write_options(options_of(args), Path(args.save))
    # a Slurm job resumes where it was stopped
    resume = args.resume or args.gather or (args.launcher == "slurm" and not args.overwrite)
    if args.dry_run or not resume:  # finished runs need no data
        make_benchmark(methods[0])
    refuse_to_replace(output, resume=resume or bool(args.plan), overwrite=args.overwrite)
    if args.dry_run:
        return
    places = [(config, output / config.label if kind else output) for config in methods]
    runs = [
        one for place in places for one in runs_of(*place, args.seeds, vary_order=args.vary_order)
    ]
    if args.plan:
        write_commands(runs, Path(args.plan), args.logger)
        return
    launcher, jobs = launcher_of(args, output), args.jobs
    if jobs is None:
        jobs = 1 if launcher else default_jobs(methods[0].device)
    found = run_methods(
        places,
        args.seeds,
        vary_order=args.vary_order,
        jobs=jobs,
        resume=resume,
        overwrite=args.overwrite,
        progress=not args.quiet,
        launcher=launcher,
        loggers=args.logger.split(","),
    )

    finished = {label: results for label, results in zip(labels, found, strict=True) if results}
    failed = [
        f"{display_name(config.label)}, seed {config.seed}, {reason}"
        for config, folder in runs
        if (reason := why_missing(folder))
    ]
    print("\n".join(["", *failed, lead(finished), "", table(finished)]))
    print(f"\n{cost_table(finished)}\n")
    if kind:
        print(f"Tables: {write_tables(finished, output, kind)}, also .csv, .json and .tex")
    names = [display_name(label) for label in finished]
    title = ", ".join(names) if len(names) < 5 else f"{len(names)} methods"
    page = output / "report.html"
    try:
        write_page(
            finished,
            page,
            f"{benchmark}: {title}",
            command=args.command_line,
            notes=notes,
            failed=failed,
            drawn=write_figures(finished, output),
        )
        print(f"Report: {page}")
    except Exception as error:  # e.g. a font or a full disk: the results are saved
        log.warning("The runs are finished, but the report could not be written: %s", error)
    if failed and not args.gather:
        raise RuntimeError(f"{len(failed)} run(s) failed; --resume runs only these again.")


def launcher_of(args: argparse.Namespace, output: Path) -> Launcher | None:
    """The launcher that computes the runs; None for this machine."""
    check_choice("launcher", args.launcher or "local", ("local", "slurm"))
    if args.slurm and args.launcher is None:
        raise ValueError("--slurm requires --launcher slurm.")
    if args.gather:
        return gather
    return Slurm(output / "slurm", dict(args.slurm or ())) if args.launcher == "slurm" else None


def write_commands(runs: Sequence[Run], file: Path, logger: str) -> None:
    """Write one command per unfinished run, and the run's options into its folder."""
    lines = []
    for config, folder in runs:
        if why_missing(folder) is None:
            continue
        options = {
            k: v for k, v in asdict(config).items() if k != "name" and v != getattr(RunConfig(), k)
        }
        write_options({**options, "logger": logger}, folder / "options.yaml")
        words = ("run", "--config", folder / "options.yaml", "--output", folder, "--resume")
        lines.append(shlex.join(["mist-avalanche", *map(str, words)]))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} commands: {file}. When they are done, --gather writes the tables.")


def plan(methods: Sequence[RunConfig], n_seeds: int, output: Path) -> str:
    """The plan as text: the settings that all methods share, then one line per method."""
    first = methods[0]
    seeds = ", ".join(str(first.seed + i) for i in range(n_seeds))
    shared = {**first.settings(), **first.inputs, "seed": seeds, "output": output}
    rows = [
        (name, value)
        for name, value in shared.items()
        if name not in _OF_A_METHOD and value not in (None, {}, False)
    ]
    for config in methods:
        settings, defaults = config.settings(), backbone_defaults(config.backbone)
        of_strategy = {**defaults.strategy_for(find(config.strategy).name), **config.strategy_args}
        of_strategy |= {"joined": True} if config.joined else {}
        parts = [", ".join(f"{name}={settings['strategy_args'][name]}" for name in of_strategy)]
        if config.mist:
            shown = dict.fromkeys(("tune_on", "lr", "tune_epochs", "batch_size", *config.mist_args))
            mist = ", ".join(f"{name}={settings['mist_args'][name]}" for name in shown)
            parts.append(f"MIST: {mist}")
        rows.append((config.label, "; ".join(filter(None, parts))))
    return str(tabulate(rows, tablefmt="plain", disable_numparse=True))
