"""Launchers: where runs are computed.

A launcher takes settings and folders of runs, and returns their results in order, None for those
that failed; their folders have ``error.txt``.
"""

from __future__ import annotations

import logging
import multiprocessing
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

from ..utils import check_integer, hide_avalanche_warnings
from .checkpoint import refuse_other_settings
from .config import RunConfig
from .results import clear, read_json, read_results, write_json
from .run import run

log = logging.getLogger(__name__)
Run: TypeAlias = tuple[RunConfig, Path]  # settings and folder
Results: TypeAlias = dict[str, Any]
Launcher: TypeAlias = Callable[[Sequence[Run]], list[Results | None]]

# Slurm's states of jobs that have ended; all others are in the queue or running
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT", "GONE"),
}


def local(
    runs: Sequence[Run],
    *,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    loggers: Sequence[str] = ("tensorboard",),
) -> list[Results | None]:
    """Here, one after the other or side by side in processes; Ctrl-C ends all of them."""
    jobs = min(check_integer("jobs", jobs, 1), len(runs))
    start = partial(run, resume=resume, overwrite=overwrite, progress=progress and jobs == 1)
    start = partial(start, loggers=loggers)
    calls = [partial(start, *one) for one in runs]
    if jobs < 2:
        return [_attempt(one, call) for one, call in zip(runs, calls, strict=True)]
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    number, level = spawn.Value("i", 0), log.getEffectiveLevel()
    pool = ProcessPoolExecutor(jobs, spawn, _start_worker, (level, threads, number))
    try:
        futures = [pool.submit(_attempt, *pair) for pair in zip(runs, calls, strict=True)]
        # the second attempt is for a process that is gone, as where memory ran out
        return [_attempt(one, future.result) for one, future in zip(runs, futures, strict=True)]
    except BaseException:
        for process in [*pool._processes.values()]:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def gather(runs: Sequence[Run]) -> list[Results | None]:
    """Nowhere: only finished runs count."""
    return [None for _ in runs]


class Slurm:
    """As jobs of Slurm, one per run in one array, through submitit.

    A job that is preempted, or whose time is up, is queued again and goes on after the last
    experience that it finished; one whose process was killed is submitted again, once. Jobs go on
    when the process that submitted them is stopped. Called again with the same runs, it follows
    those that are still in the queue and submits the others.

    Args:
        folder: for scripts and logs; the nodes have to see it, as well as code, data and results.
        parameters: of submitit's ``SlurmExecutor``: ``partition``, ``time`` (minutes; default:
            720), ``gpus_per_node``, ``cpus_per_task``, ``mem``, ``array_parallelism`` (jobs at a
            time), ``setup``, ``additional_parameters``, …; and ``max_num_timeout``, how many times
            a job whose time is up is queued again (default: 3).
        overwrite: replace what is in the folders of the runs.
        loggers: as for :func:`~mist_avalanche.runs.run`.

    Raises:
        ImportError: submitit is missing.
        RuntimeError: there is no Slurm.
        ValueError: an unknown parameter; with ``overwrite``, a run that is in the queue.
    """

    def __init__(
        self,
        folder: str | Path,
        parameters: Mapping[str, Any] = MappingProxyType({}),
        *,
        overwrite: bool = False,
        loggers: Sequence[str] = ("tensorboard",),
    ) -> None:
        self.executor = self.make_executor(Path(folder), dict(parameters))
        self.overwrite, self.loggers = overwrite, loggers
        self._ids: dict[Path, str] = {}  # of jobs that have not ended, by folder of the run
        self._submitted: Counter[Path] = Counter()

    @staticmethod
    def make_executor(folder: Path, parameters: dict[str, Any]) -> Any:
        """Submitit's executor."""
        try:
            import submitit
        except ImportError as error:
            hint = "Jobs of Slurm need submitit: pip install 'mist-avalanche[slurm]'."
            raise ImportError(hint) from error
        timeouts = parameters.pop("max_num_timeout", 3)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=timeouts)
        executor.update_parameters(**{"job_name": "mist-avalanche", "time": 720, **parameters})
        return executor

    def __call__(self, runs: Sequence[Run]) -> list[Results | None]:
        """Submit, and wait for the results."""
        states, new = self.states(), []
        for config, folder in runs:
            job = read_json(folder / "job.json") or {"id": None}
            if states.get(job["id"], "GONE") in _ENDED:
                new.append((config, folder))
                continue
            if self.overwrite:
                raise ValueError(f"{folder} is that of job {job['id']}. End it by scancel first.")
            refuse_other_settings(folder, job["settings"], config.settings())
            self._ids[folder] = job["id"]
        for _, folder in new:
            if self.overwrite:
                clear(folder)
        self._submit(new)
        try:
            self._wait({folder: config for config, folder in runs})
        except KeyboardInterrupt:
            log.info("%d job(s) go on: %s.", len(self._ids), ", ".join(self._ids.values()))
            raise
        return [
            read_results(folder) if (folder / "results.json").exists() else None
            for _, folder in runs
        ]

    def _submit(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        for _, folder in runs:
            (folder / "error.txt").unlink(missing_ok=True)
        job = _Job(log.getEffectiveLevel(), self.loggers)
        jobs = self.executor.map_array(job, *zip(*runs, strict=True))
        for (config, folder), sent in zip(runs, jobs, strict=True):
            write_json({"id": sent.job_id, "settings": config.settings()}, folder / "job.json")
            self._ids[folder] = sent.job_id
            self._submitted[folder] += 1

    def _wait(self, configs: Mapping[Path, RunConfig]) -> None:
        """Until every run has results or an error."""
        pause, said = 1.0, ""
        late: set[Path] = set()  # of jobs that have ended; files of another node may take a while
        while self._ids:
            time.sleep(pause)
            pause = min(30.0, 1.5 * pause)
            try:
                now = self.states()
            except (OSError, RuntimeError) as error:  # as where the controller is busy
                log.warning("%s", error)
                continue
            states = {folder: now.get(job, "GONE") for folder, job in self._ids.items()}
            over = {folder for folder, state in states.items() if state in _ENDED}
            written = {folder for folder in over if _has_ended(folder)}
            killed = over & late - written
            late = over - written
            for folder in written:
                del self._ids[folder]
            self._end_killed({folder: states[folder] for folder in killed}, configs)
            if (progress := self._progress(now, len(configs))) != said:
                log.info("%s", progress)
                said = progress

    def _progress(self, states: Mapping[str, str], n: int) -> str:
        jobs: dict[str, list[str]] = {}
        for job in self._ids.values():
            jobs.setdefault(states.get(job, "SUBMITTED").lower(), []).append(job)
        parts = (f"{state}: {', '.join(ids)}" for state, ids in jobs.items())
        return "; ".join([f"{n - len(self._ids)} of {n} have ended", *parts])

    def _end_killed(self, states: Mapping[Path, str], configs: Mapping[Path, RunConfig]) -> None:
        """Submit runs again whose jobs ended without a word, once, and unless that was wanted."""
        again = []
        for folder, state in states.items():
            job = self._ids.pop(folder)
            if state != "CANCELLED" and self._submitted[folder] < 2:
                log.warning("Job %s (%s) was killed, and is submitted again.", job, folder)
                again.append((configs[folder], folder))
                continue
            ended = self.executor.job_class(self.executor.folder, job)
            lines = (ended.stderr() or ended.stdout() or "").splitlines()[-5:]
            about = f"Job {job} ended without results ({state}). Its log, {ended.paths.stderr}:"
            write_error(folder, "\n".join([about, *lines]))
        self._submit(again)

    def states(self) -> dict[str, str]:
        """State of the user's jobs by id; those that have ended disappear after some minutes."""
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"squeue failed: {found.stderr.strip()}")
        return dict(line.split(maxsplit=1) for line in found.stdout.splitlines())


def _has_ended(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("results.json", "error.txt"))


class _Job:
    """What a job of Slurm does: one run, which goes on where it was stopped."""

    def __init__(self, level: int, loggers: Sequence[str]) -> None:
        self.level, self.loggers = level, loggers

    def __call__(self, config: RunConfig, folder: Path) -> None:
        _start_worker(self.level)
        start = partial(run, config, folder, resume=True, progress=False, loggers=self.loggers)
        _attempt((config, folder), start)

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues when the job is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def _attempt(one: Run, compute: Callable[[], Results | None]) -> Results | None:
    """What is computed for a run; None where that fails, with the error in ``error.txt``."""
    try:
        return compute()
    except Exception as error:
        config, folder = one
        log.info("%s, seed %d: failed, see %s", config.label, config.seed, folder / "error.txt")
        text = "".join(traceback.format_exception(error))
        write_error(folder, f"{type(error).__name__}: {error}\n\n{text}")
        return None


def write_error(folder: Path, text: str) -> None:
    """Say in the folder of a run why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").write_text(text, encoding="utf-8", errors="replace")


def _start_worker(level: int, threads: int | None = None, number: Any = None) -> None:
    """Give a process its log, and one of several its threads and its GPU."""
    if threads is not None:
        torch.set_num_threads(threads)
    if number is not None and torch.cuda.is_available():
        with number.get_lock():
            torch.cuda.set_device(number.value % torch.cuda.device_count())
            number.value += 1
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__.partition(".")[0]).setLevel(level)
    hide_avalanche_warnings()
