"""``docs/performance.md``: every measuring script of this folder, each in a process of its own.

Run by ``make bench``. What needs a GPU, or a folder of photographs, is measured where it is there.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "performance.md"

STEP = "tuning_step.py"
_SMALL = ("--model", "deit_tiny_patch16_224", "embedded")
SECTIONS = {
    "A tuning step, ViT-B/16, 8 pairs, float32": (STEP,),
    "A tuning step, ViT-B/16, 8 pairs, bf16": (STEP, "--precision", "bf16"),
    "A tuning step, the embedded ViT, 64 pairs": (STEP, "--model", "embedded", "--pairs", "64"),
    "Prompts on ViT-B/16": ("prompts.py",),
    "EASE's subspaces": ("subspaces.py", *_SMALL, "--images", "8", "64"),
    "SLCA's alignment": ("alignment.py",),
    "How a run grows": ("growth.py",),
    "RanPAC's ridge and solution": ("ridge.py",),
    "Deltas": ("delta.py",),
}
ON_A_GPU = {
    f"A tuning step, ViT-B/16, 56 pairs, {words}": (
        STEP,
        "--device",
        "cuda",
        "--pairs",
        "56",
        *more,
    )
    for words, more in {
        "float32": (),
        "bf16": ("--precision", "bf16"),
        "bf16, compiled": ("--precision", "bf16", "--compile"),
    }.items()
} | {
    "Prompts on ViT-B/16, 64 images, on a GPU": (
        *("prompts.py", "--device", "cuda", "--images", "64", "--repeats", "10"),
    ),
    "EASE's subspaces on a GPU": (
        *("subspaces.py", "--device", "cuda", "--repeats", "10", "--images", "8", "64"),
        *("--model", "vit_base_patch16_224", "deit_tiny_patch16_224", "embedded"),
    ),
}


def machine() -> str:
    """Where this was measured."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "timm", "avalanche-lib"))
    return f"{model}, {os.cpu_count()} cores{gpu}; Python {platform.python_version()}, {packages}"


def main() -> None:
    """Measure everything and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", metavar="DIR", help="class folders of photographs")
    parser.add_argument("--output", type=Path, default=DOCUMENT)
    args = parser.parse_args()
    sections = dict(SECTIONS)
    if args.images:
        sections["Images from a data loader"] = ("input.py", args.images)
    if torch.cuda.is_available():
        sections |= ON_A_GPU
    lines = [
        "# What it costs",
        "",
        f"Written by `make bench` on: {machine()}. One thread. Times on a CPU are CPU seconds, "
        "which other work on the machine changes little; ratios to the plain way beside them say "
        "more than the times. Tables that name another machine or version were measured there.",
    ]
    for title, (script, *arguments) in sections.items():
        print(f"{title} …", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / script), *arguments]
        text = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        ).stdout.rstrip()
        shown = " ".join(["DIR" if a == args.images else shlex.quote(a) for a in arguments])
        body = text if text.startswith(("|", "#")) or "\n|" in text else f"```\n{text}\n```"
        lines += [
            "",
            f"## {title}",
            "",
            f"`python studies/performance/{script} {shown}`".replace(" `", "`"),
        ]
        lines += ["", body]
    args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
