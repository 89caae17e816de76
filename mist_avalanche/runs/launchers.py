"""Launchers: where runs are computed.

A launcher takes the settings and folders of runs, and a function that computes a run. It returns
the results in order, None for failed runs, whose folders contain ``error.txt``.
"""

import logging
import multiprocessing
import os
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from ..utils import hide_avalanche_warnings
from .checkpoint import refuse_other_settings
from .config import RunConfig
from .results import (
    NOT_FINISHED,
    Results,
    read_json,
    read_results,
    why_missing,
    write_error,
    write_json,
)

log = logging.getLogger(__name__)
Run: TypeAlias = tuple[RunConfig, Path]  # settings and folder
Compute: TypeAlias = Callable[[RunConfig, Path], Results]
Launcher: TypeAlias = Callable[[Sequence[Run], Compute], list[Results | None]]

# Slurm's states of jobs that have ended, and ours for jobs that Slurm no longer lists
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT", "GONE"),
}


def local(runs: Sequence[Run], compute: Compute, *, jobs: int = 1) -> list[Results | None]:
    """Compute runs on this machine, in sequence or in parallel processes; Ctrl-C stops all."""
    if (jobs := min(jobs, len(runs))) < 2:
        return [_attempt(one, partial(compute, *one)) for one in runs]
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    number, level = spawn.Value("i", 0), log.getEffectiveLevel()
    pool = ProcessPoolExecutor(jobs, spawn, _start_worker, (level, threads, number))
    try:
        futures = [pool.submit(_attempt, one, partial(compute, *one)) for one in runs]
        # the second attempt handles a process that has died, e.g. for lack of memory
        return [_attempt(one, future.result) for one, future in zip(runs, futures, strict=True)]
    except BaseException:
        for process in [*pool._processes.values()]:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def gather(runs: Sequence[Run], compute: Compute) -> list[Results | None]:
    """Compute nothing: only finished runs are reported."""
    return [None for _ in runs]


class Slurm:
    """Computes runs as Slurm jobs, one per run in one array, with submitit.

    A job that is preempted or reaches its time limit is queued again, and resumes after the last
    experience that it finished. A job whose process was killed is submitted again, once. Jobs keep
    running when the process that submitted them is stopped. When called again with the same runs,
    the launcher follows the jobs that are still in the queue and submits the others.

    Args:
        folder: folder of scripts and logs; the nodes need access to it, and to code, data, results.
        parameters: parameters of submitit's ``SlurmExecutor``: ``partition``, ``time`` (minutes;
            default: 720), ``gpus_per_node``, ``cpus_per_task``, ``mem``, ``setup``,
            ``array_parallelism`` (jobs at a time), ``additional_parameters``, …; and
            ``max_num_timeout``, how often a job is queued again after its time limit (default: 3).

    Raises:
        ImportError: submitit is not installed.
        RuntimeError: Slurm is not available.
        ValueError: a parameter is unknown, or a run is in the queue with other settings.
    """

    def __init__(
        self, folder: str | Path, parameters: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.executor = self.make_executor(Path(folder), dict(parameters))
        self._ids: dict[Path, str] = {}  # ids of unfinished jobs, by folder of the run
        self._submitted: Counter[Path] = Counter()

    @staticmethod
    def make_executor(folder: Path, parameters: dict[str, Any]) -> Any:
        """Submitit's executor."""
        try:
            import submitit
        except ImportError as error:
            hint = "Slurm jobs need submitit: pip install submitit."
            raise ImportError(hint) from error
        timeouts = parameters.pop("max_num_timeout", 3)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=timeouts)
        executor.update_parameters(**{"job_name": "mist-avalanche", "time": 720, **parameters})
        return executor

    def __call__(self, runs: Sequence[Run], compute: Compute) -> list[Results | None]:
        """Submit jobs, and wait for the results."""
        states, new = self.states(), []
        for config, folder in runs:
            job = read_json(folder / "job.json") or {"id": None}
            if states.get(job["id"], "GONE") in _ENDED:
                new.append((config, folder))
            else:
                refuse_other_settings(folder, job["settings"], config.settings())
                self._ids[folder] = job["id"]
        self._submit(new, compute)
        try:
            self._wait(runs, compute)
        except KeyboardInterrupt:
            log.info(
                "%d job(s) stay in the queue: %s.", len(self._ids), ", ".join(self._ids.values())
            )
            raise
        return [None if why_missing(folder) else read_results(folder) for _, folder in runs]

    def _submit(self, runs: Sequence[Run], compute: Compute) -> None:
        """Submit an array of jobs, and write each run's job id into its folder."""
        if not runs:
            return
        for _, folder in runs:
            (folder / "error.txt").unlink(missing_ok=True)
        job = _Job(compute, log.getEffectiveLevel())
        sent = self.executor.map_array(job, *zip(*runs, strict=True))
        for (config, folder), job in zip(runs, sent, strict=True):
            write_json({"id": job.job_id, "settings": config.settings()}, folder / "job.json")
            self._ids[folder] = job.job_id
            self._submitted[folder] += 1

    def _wait(self, runs: Sequence[Run], compute: Compute) -> None:
        """Wait until every run has results or an error."""
        pause, said = 1.0, ""
        late: set[Path] = set()  # jobs that ended without a file, which may still arrive
        while self._ids:
            time.sleep(pause)
            pause = min(30.0, 1.5 * pause)
            try:
                now = self.states()
            except (OSError, RuntimeError) as error:  # e.g. if the controller is busy
                log.warning("%s", error)
                continue
            states = {folder: now.get(job, "GONE") for folder, job in self._ids.items()}
            over = {folder for folder, state in states.items() if state in _ENDED}
            written = {folder for folder in over if why_missing(folder) != NOT_FINISHED}
            killed, late = over & late - written, over - written
            again = [run for run in runs if run[1] in killed and not self._gives_up(run[1], states)]
            for folder in written | killed:
                del self._ids[folder]
            self._submit(again, compute)
            ended = [folder for _, folder in runs if folder not in self._ids]
            failed = sum(why_missing(folder) is not None for folder in ended)
            running = [job for job in self._ids.values() if now.get(job) == "RUNNING"]
            text = f"Of {len(runs)} jobs: {len(ended) - failed} finished, {failed} failed"
            text += f", {len(running)} running"
            text += f" ({', '.join(running)})" * bool(running)
            text += f", {len(self._ids) - len(running)} waiting"
            if text != said:
                log.info("%s", text)
                said = text

    def _gives_up(self, folder: Path, states: Mapping[Path, str]) -> bool:
        """Whether to give up on a killed job; its run then fails with the end of its log."""
        job, state = self._ids[folder], states[folder]
        if state != "CANCELLED" and self._submitted[folder] < 2:
            log.warning("Job %s (%s) was killed and is submitted again.", job, folder)
            return False
        ended = self.executor.job_class(self.executor.folder, job)
        said = (ended.stderr() or ended.stdout() or "").splitlines()
        lines = [line for line in said if line.strip()][-5:]
        about = f"Job {job} ended without results ({state}). Its log, {ended.paths.stderr}:"
        write_error(folder, "\n".join([about, *lines]))
        return True

    def states(self) -> dict[str, str]:
        """States of the user's jobs by id; finished jobs disappear after some minutes."""
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"squeue failed: {found.stderr.strip()}")
        return dict(line.split(maxsplit=1) for line in found.stdout.splitlines())


class _Job:
    """A Slurm job: one run, which resumes where it was stopped."""

    def __init__(self, compute: Compute, level: int) -> None:
        self.compute, self.level = compute, level

    def __call__(self, config: RunConfig, folder: Path) -> None:
        cores = os.environ.get("SLURM_CPUS_PER_TASK")  # which PyTorch does not see on every cluster
        _start_worker(self.level, int(cores) if cores else None)
        _attempt((config, folder), partial(self.compute, config, folder))

    def checkpoint(self, *arguments: Any) -> Any:
        """The job that submitit queues when this one is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def _attempt(one: Run, compute: Callable[[], Results | None]) -> Results | None:
    """Compute a run; if it fails, write the error to ``error.txt`` and return None."""
    try:
        return compute()
    except Exception as error:
        config, folder = one
        log.info("%s, seed %d: failed, see %s", config.label, config.seed, folder / "error.txt")
        text = "".join(traceback.format_exception(error))
        write_error(folder, f"{type(error).__name__}: {error}\n\n{text}")
        return None


def _start_worker(level: int, threads: int | None = None, number: Any = None) -> None:
    """Set up the logging of a process, and its threads and GPU if it is one of several."""
    if threads is not None:
        torch.set_num_threads(threads)
    if number is not None and torch.cuda.is_available():
        with number.get_lock():
            torch.cuda.set_device(number.value % torch.cuda.device_count())
            number.value += 1
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__.partition(".")[0]).setLevel(level)
    hide_avalanche_warnings()
