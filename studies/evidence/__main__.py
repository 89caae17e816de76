"""The study behind ``docs/evidence.md``.

``python studies/evidence`` writes the page from the rows in ``measured.jsonl``. With ``--data DIR
--rows FILE`` it first measures what FILE does not have, and appends it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import grid
import jobs
import report
import sets
import torch

HERE = Path(__file__).parent


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
    rows = []
    if args.rows.exists():
        rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    if args.data:
        measure(args, rows)
    if not (args.only or args.limit):
        report.write(rows, args.document)


def measure(args: argparse.Namespace, rows: list[report.Row]) -> None:
    """Measure what is missing, stage by stage, and add it to the rows and their file."""
    begun = time.perf_counter()
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    weights = args.data / "real" / "deit_tiny_in1k.safetensors"
    common = (weights, args.cache, args.device, args.precision)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        n = len(sets.TITLES)
        list(pool.map(sets.prepare, sets.TITLES, [args.data] * n, [args.cache] * n))
        for name, wanted in grid.STAGES.items():
            if args.only and name not in args.only.split(","):
                continue
            known = {jobs.Job.of(row).key for row in rows}
            todo = [job for job in wanted(rows) if job.key not in known][: args.limit]
            waiting, running = list(todo), set()
            while waiting or running:
                late = time.perf_counter() - begun > 60 * args.minutes
                while waiting and len(running) < args.processes and not late:
                    running.add(pool.submit(jobs.work, waiting.pop(0), *common))
                if not running:
                    break
                done = next(as_completed(running))
                running.remove(done)
                row = done.result()
                if "failed" in row:
                    print(row["failed"], flush=True)
                    continue
                rows.append(row)
                with args.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{name}: {len(todo)} jobs, {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
