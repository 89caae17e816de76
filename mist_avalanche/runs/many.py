"""Many runs: methods and seeds, one after the other or in several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..reports.summary import mean_and_std
from ..utils import hide_avalanche_warnings
from .build import choose_device
from .checks import check_runs
from .config import RunConfig
from .folder import SCHEMA, check_free, check_resumable, write_json
from .one import run

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
) -> list[list[Results]]:
    """Every method with the same seeds, counted up from the ``seed`` of its settings.

    A single seed is written to the method's folder itself, several to ``seed-S`` within it, beside
    a ``summary.json`` with mean and standard deviation of every metric.

    Args:
        methods: settings and output folder of each.
        n_seeds: runs per method.
        vary_order: give each seed a class order of its own.
        jobs: runs at a time, each in its own process with its share of the threads and, as long as
            there are enough, a GPU of its own. The number of threads changes the last bits of sums,
            and so may change a run a little.
        resume: keep finished runs with the same settings, and go on with stopped ones.
        overwrite: replace finished runs.
        progress: show progress bars in a terminal, for one job.

    Returns:
        For each method, the results of its seeds in order. A run that fails is missing; its folder
        has ``error.txt``, and the others go on.

    Raises:
        ValueError: an unknown setting, or one out of range; finished runs are there, and neither
            ``resume`` nor ``overwrite`` says what to do with them; with ``resume``, a run with
            other settings is there.
        RuntimeError: every run failed; the message is the error of the first.
    """
    if n_seeds < 1 or jobs < 1:
        raise ValueError(f"Expected at least one seed and one job, got {n_seeds} and {jobs}.")
    checked = check_runs([config for config, _ in methods])
    methods = [(config, folder) for config, (_, folder) in zip(checked, methods, strict=True)]
    plan = [one for method in methods for one in runs_of(*method, n_seeds, vary_order=vary_order)]
    check_folders([*methods, *plan], resume=resume, overwrite=overwrite)

    options = {"resume": resume, "overwrite": overwrite}
    if jobs == 1:
        results = run_here(plan, progress=progress, **options)
    else:
        results = run_in_processes(plan, jobs=min(jobs, len(plan)), **options)
    if not any(results):
        raise RuntimeError(error_of(plan[0][1]))

    grouped = []
    for i, (_, folder) in enumerate(methods):
        found = [r for r in results[i * n_seeds : (i + 1) * n_seeds] if r is not None]
        grouped.append(found)
        if n_seeds > 1 and found:
            summary = {
                "schema": SCHEMA,
                "config": found[0]["config"],
                "seeds": [r["config"]["seed"] for r in found],
                "metrics": mean_and_std(found),
            }
            write_json(summary, folder / "summary.json")
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


def check_folders(runs: Sequence[Run], *, resume: bool, overwrite: bool) -> None:
    """ValueError where a run could not start in its folder, or not be resumed."""
    for config, folder in runs:
        check_free(folder, resume=resume, overwrite=overwrite)
        if resume:
            check_resumable(config, folder)


def default_jobs(device: str) -> int:
    """As many runs at a time as there are GPUs, or cores (up to 8) where the device is the CPU."""
    if choose_device(device).type == "cuda":
        return torch.cuda.device_count()
    return min(8, os.cpu_count() or 1)


def error_of(folder: Path) -> str:
    """The error of a run that failed."""
    return (folder / "error.txt").read_text(encoding="utf-8").partition("\n\nTraceback")[0]


# ---- Launchers: runs in, results out, None for a run that failed and left its error.txt ----------


def run_here(runs: Sequence[Run], *, progress: bool, **options: Any) -> list[Results | None]:
    """Runs one after the other, in this process."""
    return [attempt(config, folder, progress=progress, **options) for config, folder in runs]


def run_in_processes(runs: Sequence[Run], *, jobs: int, **options: Any) -> list[Results | None]:
    """Runs side by side, each in one of some processes."""
    results: list[Results | None] = [None] * len(runs)
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    number, level = spawn.Value("i", 0), log.getEffectiveLevel()
    pool = ProcessPoolExecutor(jobs, spawn, _start_worker, (threads, number, level))
    try:
        futures = [pool.submit(attempt, *one, progress=False, **options) for one in runs]
        for i, future in enumerate(futures):
            if error := future.exception():  # the process is gone, as where memory ran out
                _fail(runs[i], error)
            else:
                results[i] = future.result()
    except BaseException:
        for process in [*(pool._processes or {}).values()]:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def attempt(config: RunConfig, folder: Path, **options: Any) -> Results | None:
    """The results of a run; None where it fails, and ``error.txt`` in its folder."""
    try:
        return run(config, folder, **options)
    except Exception as error:
        _fail((config, folder), error)
        return None


def _fail(one: Run, error: BaseException) -> None:
    """Log that a run failed, and write why."""
    config, folder = one
    log.info("%s, seed %d: failed, see %s", config.label, config.seed, folder / "error.txt")
    text = "".join(traceback.format_exception(error))
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{type(error).__name__}: {error}\n\n{text}"
    (folder / "error.txt").write_text(about, encoding="utf-8")


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
