"""All strategies on the first five of ten experiences of CUB-100, DeiT-Tiny at 128 pixels.

``python studies/evidence/hosts.py --data DIR`` chooses settings on training images alone, then runs
every strategy without and with MIST. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any
from zipfile import ZipFile

from mist_avalanche.reports.labels import display_name
from mist_avalanche.reports.summary import costs
from mist_avalanche.runs import RunConfig, run_methods

SETS = {"cub": ("cub100.zip", "cub200"), "cars": ("cars98.zip", "cars98")}
PROMPT_SETTINGS = [
    {"train_epochs": 20, "lr": 2e-2},
    {"train_epochs": 20, "lr": 1e-2},
    {"train_epochs": 20, "lr": 5e-3},
    {"train_epochs": 5, "lr": 5e-3},
]
CHOICES: dict[str, list[dict[str, Any]]] = {
    "codaprompt": [
        {"train_epochs": 20, "lr": 2e-2},
        {"train_epochs": 20, "lr": 1e-2},
        {"train_epochs": 20, "lr": 5e-3},
    ],
    "l2p": PROMPT_SETTINGS,
    "dualprompt": PROMPT_SETTINGS,
    "ease": [{"lr": lr} for lr in (0.0125, 0.025, 0.05, 0.1)],
    "slca": [
        {"lr": 0.01, "backbone_lr": 1e-4},
        {"lr": 0.01, "backbone_lr": 1e-3},
        {"lr": 0.03, "backbone_lr": 3e-4},
        {"lr": 0.03, "backbone_lr": 3e-3},
    ],
    "fecam": [
        {"diagonal_shrinkage": d, "off_diagonal_shrinkage": o}
        for d, o in ((0.1, 0.0), (1.0, 0.0), (10.0, 0.0), (1.0, 1.0))
    ],
    "cofima": [
        {"lr": 0.01, "backbone_lr": 1e-4},
        {"lr": 0.01, "backbone_lr": 1e-3},
        {"lr": 0.03, "backbone_lr": 3e-4},
    ],
    "ssiat": [{"lr": lr} for lr in (0.01, 0.03, 0.1)],
    "mos": [{"lr": lr} for lr in (0.03, 0.1)],
    "aper": [{"adapter": a} for a in ("adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune")],
}
HOSTS = ("simplecil", "ranpac", "fecam", "aper", "slca", "cofima", "ease", "ssiat", "mos")
HOSTS += ("dualprompt", "l2p", "codaprompt")


def main() -> None:
    """Choose what is not chosen yet, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("results/hosts"))
    parser.add_argument("--set", choices=SETS, default="cub")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--hosts", type=lambda names: names.split(","), default=[*HOSTS])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=("choose", "measure"))
    args = parser.parse_args()
    archive, folder = SETS[args.set]
    images = args.output / "images"
    if not (images / folder).exists():
        with ZipFile(args.data / "real" / archive) as file:
            file.extractall(images)
        shutil.copytree(images / folder / "train", images / f"{folder}-training")
    base = RunConfig(
        benchmark="folder",
        dataset_root=str(images / folder),
        experiences=10,
        first=5,
        backbone="deit_tiny_patch16_224",
        weights=str(args.data / "real" / "deit_tiny_in1k.safetensors"),
        image_size=128,
    )
    output = args.output / args.set
    chosen = output / "choice.json"
    settings = json.loads(chosen.read_text()) if chosen.exists() else {}
    todo = [host for host in args.hosts if host in CHOICES and host not in settings]
    if args.only != "measure" and todo:
        training = replace(base, dataset_root=f"{base.dataset_root}-training")
        settings |= choose(training, output, args, todo)
        chosen.write_text(json.dumps(settings, indent=1))
    if args.only != "choose":
        measure(base, settings, output, args)


def choose(base: RunConfig, output: Path, args: Any, hosts: list[str]) -> dict[str, Any]:
    """The best A_T of each host, a fifth of the training images held out, without MIST."""
    methods = [
        (replace(base, strategy=host, strategy_args=settings), output / "choice" / f"{host}-{i}")
        for host in hosts
        for i, settings in enumerate(CHOICES.get(host, ()))
    ]
    rows: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    found = run_methods(methods, jobs=args.jobs, resume=True)
    for (config, _), results in zip(methods, found, strict=True):
        for r in results:
            metrics = r["metrics"]
            rows.setdefault(config.strategy, []).append((metrics["A_T"], config.strategy_args))
            print(config.strategy, config.strategy_args, metrics["A_T"], metrics["A_bar"])
    return {host: max(tried, key=lambda row: row[0])[1] for host, tried in rows.items()}


def measure(base: RunConfig, chosen: dict[str, Any], output: Path, args: Any) -> None:
    """Every host without and with MIST."""
    methods = [
        (replace(base, strategy=host, mist=mist, strategy_args=chosen.get(host, {})), name)
        for host in args.hosts
        for mist in (False, True)
        for name in [output / f"{host}{'+mist' if mist else ''}"]
    ]
    rows = [
        {**r, "images": "test", **{k: r["config"][k] for k in ("strategy", "mist", "seed")}}
        for results in run_methods(methods, args.seeds, jobs=args.jobs, resume=True)
        for r in results
    ]
    print("\n".join(table(rows)))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: A_T and A_bar of each host without and with MIST, the gain of each seed, costs.

    Seconds are CPU or GPU seconds of a run, stored is in thousands of numbers, without MIST.
    """
    found = {
        (row["strategy"], row["mist"], row["seed"]): row["metrics"]
        for row in rows
        if row["images"] == "test"
    }
    seeds = sorted({seed for _, _, seed in found})
    head = ["", "A_T / A_bar", "with MIST", "gain of A_T, each seed", "seconds", "stored (k)"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --: |" * (len(head) - 1)]
    for host in dict.fromkeys(host for host, _, _ in found):
        pairs = [[found[host, mist, seed] for seed in seeds] for mist in (False, True)]
        cells = [
            " / ".join(f"{mean(m[k] for m in ms):.1f}" for k in ("A_T", "A_bar")) for ms in pairs
        ]
        gains = [b["A_T"] - a["A_T"] for a, b in zip(*pairs, strict=True)]
        cells.append(", ".join(f"{gain:+.1f}" for gain in gains))
        plain = costs([row for row in rows if (row["strategy"], row["mist"]) == (host, False)])
        cells += [f"{plain['gpu_seconds'] or plain['cpu_seconds']:.0f}"]
        cells += [f"{(plain['stored'] + plain['added']) / 1000:,.0f}"]
        lines.append(f"| {display_name(host)} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
