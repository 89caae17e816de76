"""Many runs: methods and seeds. If one fails, the others continue."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from ..utils import check_integer
from .build import choose_device
from .checks import check_runs
from .config import RunConfig
from .launchers import Launcher, Run, local
from .loggers import check_loggers
from .results import Results, clear, finished_results, refuse_to_replace, why_missing
from .run import run

log = logging.getLogger(__name__)


def run_methods(
    methods: Sequence[Run],
    n_seeds: int = 1,
    *,
    vary_order: bool = False,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    launcher: Launcher | None = None,
    loggers: Sequence[str] = ("tensorboard",),
) -> list[list[Results]]:
    """Run every method with the same number of seeds, counted up from its ``seed`` setting.

    Args:
        methods: settings and output folder of each method.
        n_seeds: runs per method. A single run writes to the method's folder itself, several runs to
            ``seed-S`` within it.
        vary_order: use a different class order for each seed.
        jobs: runs at a time, each in its own process with its share of the threads and, if there
            are enough, its own GPU. The number of threads changes the last bits of sums.
        resume: keep finished runs with the same settings, and continue stopped ones.
        overwrite: replace finished runs.
        progress: show progress bars in a terminal; only with one job.
        launcher: computes the runs instead of this machine: a :class:`.Slurm`.
        loggers: as for :func:`~mist_avalanche.runs.run`.

    Returns:
        For each method, the results of its seeds in order, without failed runs.

    Raises:
        ValueError, ModuleNotFoundError: as for :func:`~mist_avalanche.runs.run`, before the first
            run starts.
        RuntimeError: every run failed; the message is the error of the first run.
    """
    check_integer("n_seeds", n_seeds, 1)
    check_integer("jobs", jobs, 1)
    check_loggers(loggers)
    configs = check_runs([config for config, _ in methods])
    runs = [
        one
        for config, (_, folder) in zip(configs, methods, strict=True)
        for one in runs_of(config, folder, n_seeds, vary_order=vary_order)
    ]
    for _, folder in (*methods, *runs):
        refuse_to_replace(folder, resume=resume, overwrite=overwrite)
    if launcher and overwrite:  # first, because jobs that are queued again resume
        for _, folder in runs:
            clear(folder)
    known: dict[str, dict[str, str]] = {}
    there = [finished_results(*one, known) if resume else None for one in runs]
    todo = [one for one, results in zip(runs, there, strict=True) if results is None]

    if len(todo) < len(runs):
        log.info("%d of %d runs are finished.", len(runs) - len(todo), len(runs))
    compute = partial(
        run,
        resume=resume or launcher is not None,
        overwrite=overwrite,
        progress=progress and 1 in (jobs, len(todo)),
        loggers=loggers,
    )
    launch = launcher or partial(local, jobs=jobs)
    made = iter(launch(todo, compute))
    results = [next(made) if one is None else one for one in there]
    if not any(results):
        raise RuntimeError(f"{runs[0][1]} {why_missing(runs[0][1])}")

    found = iter(results)
    grouped = [[r for r in islice(found, n_seeds) if r is not None] for _ in methods]
    return grouped


def runs_of(
    config: RunConfig, folder: Path, n_seeds: int, *, vary_order: bool = False
) -> list[Run]:
    """Settings and folder of each seed of a method."""
    found = []
    for i in range(n_seeds):
        order_seed = config.order_seed + i * vary_order
        one = replace(config, seed=config.seed + i, order_seed=order_seed)
        found.append((one, folder if n_seeds == 1 else folder / f"seed-{one.seed}"))
    return found


def default_jobs(device: str) -> int:
    """Default number of parallel runs: that of GPUs, or of cores (up to 8) on the CPU."""
    if choose_device(device).type == "cuda":
        return torch.cuda.device_count()
    return min(8, os.cpu_count() or 1)
