"""Runs the study: ``python studies/evidence --data DIR --output FILE``; finished jobs are skipped."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import grid
import jobs
import report
import sets


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("results/evidence-cache"))
    parser.add_argument("--output", type=Path, default=Path("results/evidence.jsonl"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="32")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no job after these")
    parser.add_argument("--only", help="stages, by name")
    parser.add_argument("--document", type=Path, help="write the page, with its picture")
    parser.add_argument("--limit", type=int, help="jobs of each stage, to try it")
    args = parser.parse_args()
    begun = time.perf_counter()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    weights = args.data / "real" / "deit_tiny_in1k.safetensors"
    rows = []
    if args.output.exists():
        rows = [json.loads(line) for line in args.output.read_text().splitlines()]
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        list(pool.map(sets.prepare, sets.TITLES, [args.data] * 4, [args.cache] * 4))
        print(f"prepared after {time.perf_counter() - begun:.0f} s", flush=True)

        def stage(name, wanted):
            if args.only and name not in args.only.split(","):
                return
            known = {jobs.Job.of(row).key for row in rows}
            todo = [job for job in wanted() if job.key not in known][: args.limit]
            common = (weights, args.cache, args.device, args.precision)
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
                with args.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{name}: {len(todo)} jobs, {time.perf_counter() - begun:.0f} s", flush=True)

        stage("choice", grid.choice)
        lr, dense = grid.best_lr(rows, "mist"), grid.best_lr(rows, "dense")
        print(f"lr {lr}, dense {dense}", flush=True)
        stage("main", lambda: grid.main(lr))
        stage("default", grid.default)
        stage("suggested", lambda: grid.suggested(rows))
        stage("wide", lambda: grid.every(lr) + grid.parts(rows, lr, dense))
        stage("choice of lora", lambda: grid.choice_lora(rows))
        stage("plain", lambda: grid.plain_baselines(rows))
        stage("beyond", lambda: grid.beyond(lr))
        stage("confirm", lambda: grid.confirm(lr))
    if args.document:
        report.main(rows, Path(__file__).parent / "evidence.md", args.document)


if __name__ == "__main__":
    main()
