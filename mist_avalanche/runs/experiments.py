"""Several runs: seeds and methods, one after the other or side by side in processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .._support.distributed import rank, world_size
from .._support.signals import Terminated, ending_cleanly, follow_parent
from .._support.warnings import hide_avalanche_warnings
from ..reports import report
from ..reports.summary import mean_and_std
from ..strategies.names import COMPUTED_STRATEGIES
from .config import SCHEMA, RunConfig
from .progress import Bar, bar_of
from .results import check_free, check_same_settings
from .runner import choose_device, run_in_plan
from .settings_check import check_order_varies, check_settings, only_used

log = logging.getLogger(__name__)
Results = dict[str, Any]
_EVERY = 0.5  # seconds between two looks at what workers say
_words: Any = None  # of a worker, a queue to the process that has the bar


def run_seeds(
    config: RunConfig,
    output: str | Path,
    n_seeds: int,
    *,
    vary_order: bool = False,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Results]:
    """One method with seeds ``config.seed``, ``config.seed + 1``, …; see :func:`run_methods`."""
    (results,) = run_methods(
        [(config, Path(output))],
        n_seeds,
        vary_order=vary_order,
        jobs=jobs,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    return results


def run_methods(
    methods: Sequence[tuple[RunConfig, Path]],
    n_seeds: int = 1,
    *,
    vary_order: bool = False,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> list[list[Results]]:
    """Every method with the same seeds.

    One seed alone is written to the method's folder itself, several to ``seed-S`` within it. Of
    several, ``summary.json`` has mean and standard deviation of every metric.

    Args:
        methods: settings and output folder of each.
        n_seeds: runs of each method.
        vary_order: give each seed a class order of its own.
        jobs: runs at a time, each in a process with its share of the threads, and with a GPU of its
            own while there is one. The number of threads changes sums in their last bits, and so
            may change a run a little.
        resume: keep finished runs of the same settings, and go on with those that were stopped.
        overwrite: replace finished runs.
        progress: show one bar of all runs; in a file, lines.

    Returns:
        For each method, the results of its seeds in order. A run that fails is left out; its folder
        has ``error.txt``, and the others go on.

    Raises:
        ValueError: fewer than one seed or job; a setting that no method uses or nobody knows;
            finished runs are there, and neither ``resume`` nor ``overwrite`` says what to do; with
            ``resume`` a run with other settings is there.
        Exception: that of the first run, where every one failed.
    """
    if n_seeds < 1:
        raise ValueError(f"Expected at least one seed, got {n_seeds}.")
    if jobs < 1:
        raise ValueError(f"Expected at least one job, got {jobs}.")
    if jobs > 1 and world_size() > 1:
        raise ValueError("Under torchrun the processes share one run at a time. Use --jobs 1.")
    check_settings([config for config, _ in methods])
    if vary_order:
        check_order_varies([config for config, _ in methods], n_seeds)
    methods = [(only_used(config), output) for config, output in methods]
    plan = [run for method in methods for run in runs_of(*method, n_seeds, vary_order=vary_order)]
    for _, output in (*methods, *plan):
        check_free(output, resume=resume, overwrite=overwrite)
    if resume:
        for one in plan:
            check_same_settings(*one)
    go_on = {"resume": resume, "overwrite": overwrite}
    done = iter(_execute(plan, min(jobs, len(plan)), go_on, progress=progress))

    grouped = []
    for config, output in methods:
        results = [r for r in (next(done) for _ in range(n_seeds)) if r is not None]
        grouped.append(results)
        if n_seeds > 1 and results and rank() == 0:
            report.write_json(
                {
                    "schema": SCHEMA,
                    "config": results[0]["config"],
                    "seeds": [r["config"]["seed"] for r in results],
                    "metrics": mean_and_std(results),
                },
                output / "summary.json",
            )
            report.plot_accuracy({config.label: results}, output)
    return grouped


def runs_of(
    config: RunConfig, output: Path, n_seeds: int, *, vary_order: bool = False
) -> list[tuple[RunConfig, Path]]:
    """The settings and the folder of each seed of a method."""
    found = []
    for i in range(n_seeds):
        order_seed = config.order_seed + (i if vary_order else 0)
        one = replace(config, seed=config.seed + i, order_seed=order_seed)
        found.append((one, output if n_seeds == 1 else output / f"seed-{one.seed}"))
    return found


def default_jobs(device: str) -> int:
    """As many runs at a time as there are GPUs, or cores (up to 8) where the device is the CPU."""
    if world_size() > 1:
        return 1
    if choose_device(device).type == "cuda":
        return torch.cuda.device_count()
    return min(8, os.cpu_count() or 1)


def _start_worker(threads: int, number: Any, words: Any) -> None:
    global _words
    _words = words
    follow_parent()
    tqdm.set_lock(threading.RLock())  # the default is of all processes, and outlives a worker
    torch.set_num_threads(threads)
    hide_avalanche_warnings()
    if torch.cuda.is_available():
        with number.get_lock():
            torch.cuda.set_device(number.value % torch.cuda.device_count())
            number.value += 1


def _run_in_worker(i: int, config: RunConfig, output: Path, go_on: dict[str, bool]) -> Results:
    try:
        with ending_cleanly(signal.SIGTERM):
            return run_in_plan(config, output, partial(_tell, i), **go_on)
    except Terminated:
        os._exit(128 + signal.SIGTERM)  # and take no other run


def _tell(i: int, what: str, value: Any) -> None:
    """A word of a worker's run to the process that has the bar."""
    _words.put((i, what, value))


def _execute(
    plan: Sequence[tuple[RunConfig, Path]], jobs: int, go_on: dict[str, bool], *, progress: bool
) -> list[Results | None]:
    """The results of a plan, in its order; None for what failed."""
    results: list[Results | None] = [None] * len(plan)
    errors: dict[int, Exception] = {}
    with bar_of([config for config, _ in plan], progress and rank() == 0, jobs) as bar:
        if jobs > 1:
            _side_by_side(plan, jobs, results, errors, go_on, bar)
        else:
            for i, (config, output) in enumerate(plan):
                try:
                    results[i] = run_in_plan(config, output, partial(bar.hear, i), **go_on)
                except Exception as error:
                    errors[i] = error
                bar.ended(i, "failed" if i in errors else "finished")
    if len(errors) == len(plan):
        raise errors[0]
    for i, failure in sorted(errors.items()):
        output = plan[i][1]
        output.mkdir(parents=True, exist_ok=True)
        (output / "error.txt").write_text("".join(traceback.format_exception(failure)))
        log.error("%s failed: %s", output, failure)
    return results


def _brief(config: RunConfig) -> tuple[bool, bool]:
    """For sorting: what trains in every experience is first, then what tunes.

    Long runs that begin early leave no worker idle at the end.
    """
    return config.strategy in COMPUTED_STRATEGIES, not config.mist


def _side_by_side(
    plan: Sequence[tuple[RunConfig, Path]],
    jobs: int,
    results: list[Results | None],
    errors: dict[int, Exception],
    go_on: dict[str, bool],
    bar: Bar,
) -> None:
    """Fill in the results and errors of a plan, in processes."""
    threads = max(1, torch.get_num_threads() // jobs)
    spawn = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    words = spawn.SimpleQueue()
    with ProcessPoolExecutor(
        jobs,
        mp_context=spawn,
        initializer=_start_worker,
        initargs=(threads, spawn.Value("i", 0), words),
    ) as pool:
        running = {
            pool.submit(_run_in_worker, i, *plan[i], go_on): i
            for i in sorted(range(len(plan)), key=lambda i: _brief(plan[i][0]))
        }
        try:
            while running:
                over, _ = wait(running, timeout=_EVERY, return_when=FIRST_COMPLETED)
                while not words.empty():
                    bar.hear(*words.get())
                for future in over:
                    i = running.pop(future)
                    try:
                        results[i] = future.result()
                    except Exception as error:
                        errors[i] = error
                    bar.ended(i, "failed" if i in errors else "finished")
        except BaseException:
            log.info("Stopping; runs in the midst of tuning save first.")
            pool.shutdown(wait=False, cancel_futures=True)
            workers = {*multiprocessing.active_children()} - {*others}
            for worker in workers:
                worker.terminate()  # which lets a run that tunes save first
            for worker in workers:
                worker.join()
            raise
