"""Every host with MIST on two experiences of glyphs, on the CPU and on a GPU: accuracy of both."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.experiments import run_methods

HOSTS = ("simplecil", "ranpac", "l2p", "dualprompt", "codaprompt", "slca", "ease", "aper", "naive")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/gpu"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    base = RunConfig(first=2, mist=True, mist_args={"tune_epochs": 20})
    methods = [
        (replace(base, strategy=host, device=device), args.output / f"{host}-{device}")
        for host in HOSTS
        for device in ("cpu", "cuda")
    ]
    found = run_methods(methods, jobs=args.jobs, resume=True, progress=False)
    print("| host + MIST | CPU, A_T / A_bar | GPU | entries that moved, CPU | GPU |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for i, host in enumerate(HOSTS):
        pair = [r[0] for r in found[2 * i : 2 * i + 2]]
        accuracy = [f"{r['metrics']['A_T']:.2f} / {r['metrics']['A_bar']:.2f}" for r in pair]
        moved = [f"{r['mist']['updated_fraction']:.4%}" for r in pair]
        print(f"| {host} | {' | '.join(accuracy)} | {' | '.join(moved)} |")


if __name__ == "__main__":
    main()
