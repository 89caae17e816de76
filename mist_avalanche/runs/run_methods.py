"""Many runs: methods and seeds, one after the other or side by side in processes.

A run that fails leaves the others going; its folder has ``error.txt``. Ctrl-C ends all processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..utils import check_integer, hide_avalanche_warnings
from .build import choose_device
from .checks import check_runs
from .config import RunConfig
from .loggers import check_loggers
from .results import finished_results, refuse_to_replace
from .run import run

log = logging.getLogger(__name__)
Run: TypeAlias = tuple[RunConfig, Path]  # settings and folder
Results: TypeAlias = dict[str, Any]


def run_methods(
    methods: Sequence[Run],
    n_seeds: int = 1,
    *,
    vary_order: bool = False,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    loggers: Sequence[str] = ("tensorboard",),
) -> list[list[Results]]:
    """Every method with the same seeds, counted up from the ``seed`` of its settings.

    Args:
        methods: settings and output folder of each.
        n_seeds: runs per method. One writes to the method's folder itself, several to ``seed-S``
            within it.
        vary_order: give each seed a class order of its own.
        jobs: runs at a time, each in its own process with its share of the threads and, as long as
            there are enough, a GPU of its own. The number of threads changes the last bits of sums.
        resume: keep finished runs with the same settings, and go on with stopped ones.
        overwrite: replace finished runs.
        progress: show progress bars in a terminal, for one job.
        loggers: as for :func:`~mist_avalanche.runs.run`.

    Returns:
        For each method, the results of its seeds in order, without those that failed.

    Raises:
        ValueError, ModuleNotFoundError: as :func:`~mist_avalanche.runs.run` does, before anything
            is run.
        RuntimeError: every run failed; the message is the error of the first.
    """
    check_integer("n_seeds", n_seeds, 1)
    check_loggers(loggers)
    configs = check_runs([config for config, _ in methods])
    runs = [
        one
        for config, (_, folder) in zip(configs, methods, strict=True)
        for one in runs_of(config, folder, n_seeds, vary_order=vary_order)
    ]
    jobs = min(check_integer("jobs", jobs, 1), len(runs))
    for _, folder in (*methods, *runs):
        refuse_to_replace(folder, resume=resume, overwrite=overwrite)
    known: dict[str, dict[str, str]] = {}
    there = [finished_results(*one, known) if resume else None for one in runs]
    todo = [one for one, results in zip(runs, there, strict=True) if results is None]

    start = partial(run, resume=resume, overwrite=overwrite, progress=progress and jobs == 1)
    start = partial(start, loggers=loggers)
    if jobs == 1:
        made = iter([_attempt(one, partial(start, *one)) for one in todo])
    else:
        made = iter(_in_processes(todo, start, jobs))
    results = [next(made) if one is None else one for one in there]
    if not any(results):
        raise RuntimeError(error_of(runs[0][1]))

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
    """As many runs at a time as there are GPUs, or cores (up to 8) where the device is the CPU."""
    if choose_device(device).type == "cuda":
        return torch.cuda.device_count()
    return min(8, os.cpu_count() or 1)


def error_of(folder: Path) -> str:
    """The error of a run that failed."""
    return (folder / "error.txt").read_text(encoding="utf-8").partition("\n\nTraceback")[0]


def _attempt(one: Run, compute: Callable[[], Results | None]) -> Results | None:
    """What is computed for a run; None where that fails, with the error in ``error.txt``."""
    try:
        return compute()
    except Exception as error:
        config, folder = one
        log.info("%s, seed %d: failed, see %s", config.label, config.seed, folder / "error.txt")
        text = "".join(traceback.format_exception(error))
        folder.mkdir(parents=True, exist_ok=True)
        about = f"{type(error).__name__}: {error}\n\n{text}"
        (folder / "error.txt").write_text(about, encoding="utf-8", errors="replace")
        return None


def _in_processes(
    runs: Sequence[Run], start: Callable[..., Results], jobs: int
) -> list[Results | None]:
    """The results of runs side by side, None for those that failed."""
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    number, level = spawn.Value("i", 0), log.getEffectiveLevel()
    pool = ProcessPoolExecutor(jobs, spawn, _start_worker, (threads, number, level))
    try:
        futures = [pool.submit(_attempt, one, partial(start, *one)) for one in runs]
        # the second attempt is for a process that is gone, as where memory ran out
        return [_attempt(one, future.result) for one, future in zip(runs, futures, strict=True)]
    except BaseException:
        for process in [*pool._processes.values()]:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(threads: int, number: Any, level: int) -> None:
    """Give a process its threads, its GPU and its log."""
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        with number.get_lock():
            torch.cuda.set_device(number.value % torch.cuda.device_count())
            number.value += 1
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__.partition(".")[0]).setLevel(level)
    hide_avalanche_warnings()
