"""The study behind ``docs/evidence.md``.

``python studies/evidence`` writes the page from the rows in ``measured.jsonl`` and those in
``states.jsonl``. With ``--data DIR --rows FILE`` it first measures what FILE, and ``states.jsonl``
beside it, do not have, and appends it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import grid
import jobs
import report
import sets
import states
import torch

HERE = Path(__file__).parent
WORK = {jobs.Job: jobs.work, states.Tuning: states.work}


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder with real/ and omniglot/; without it nothing is measured")
    add("--rows", type=Path, default=HERE / "measured.jsonl", help="file of results")
    add("--document", type=Path, default=HERE.parents[1] / "docs" / "evidence.md", help="the page")
    add(
        "--cache",
        type=Path,
        default=Path("results/evidence-cache"),
        help="folder of decoded images",
    )
    add("--processes", type=int, default=2)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", default="32")
    add("--minutes", type=float, default=1e9, help="start no job after these")
    add("--only", help="stages, by name; no page is written")
    add("--limit", type=int, help="jobs of each stage, to try it; no page is written")
    args = parser.parse_args()
    files = {jobs.Job: args.rows, states.Tuning: args.rows.with_name("states.jsonl")}
    rows: dict[Any, list[report.Row]] = {
        kind: [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for kind, file in files.items()
    }
    if args.data:
        measure(args, files, rows)
    if not (args.only or args.limit):
        report.write(rows[jobs.Job], rows[states.Tuning], args.document)


def measure(args: argparse.Namespace, files: dict[Any, Path], rows: dict[Any, Any]) -> None:
    """Measure what is missing, stage by stage, and add it to the rows and their files."""
    begun = time.perf_counter()
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    weights = args.data / "real" / "deit_tiny_in1k.safetensors"
    common = (weights, args.cache, args.device, args.precision)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        for name, wanted in grid.STAGES.items():
            if args.only and name not in args.only.split(","):
                continue
            jobs_of_stage = wanted(rows[jobs.Job])
            kind = type(jobs_of_stage[0])
            known = {kind.of(row).key for row in rows[kind]}
            todo = [job for job in jobs_of_stage if job.key not in known][: args.limit]
            waiting, running = list(todo), set()
            crops = {(job.set, job.size) for job in todo}
            for ready in [pool.submit(sets.prepare, args.data, args.cache, *c) for c in crops]:
                ready.result()
            while waiting or running:
                late = time.perf_counter() - begun > 60 * args.minutes
                while waiting and len(running) < args.processes and not late:
                    running.add(pool.submit(WORK[kind], waiting.pop(0), *common))
                if not running:
                    break
                done = next(as_completed(running))
                running.remove(done)
                row = done.result()
                if "failed" in row:
                    print(row["failed"], flush=True)
                    continue
                rows[kind].append(row)
                with files[kind].open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{name}: {len(todo)} jobs, {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
