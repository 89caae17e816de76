"""Every measurement of ``docs/performance.md``, each in a process of its own, as one page.

Run by ``make bench``. Some need a GPU.
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
STEP = "tuning_step.py"
SECTIONS = {
    "A tuning step, ViT-B/16, 8 pairs, float32": (STEP,),
    "A tuning step, ViT-B/16, 8 pairs, bf16": (STEP, "--precision", "bf16"),
    "A tuning step, the embedded ViT, 64 pairs": (STEP, "--model", "embedded", "--pairs", "64"),
    "Prompts on ViT-B/16": ("prompts.py",),
    "SLCA's alignment": ("alignment.py",),
    "RanPAC's ridge and solution": ("ridge.py",),
}
_56_PAIRS = (STEP, "--device", "cuda", "--pairs", "56")
ON_A_GPU = {
    "A tuning step, ViT-B/16, 56 pairs, float32": _56_PAIRS,
    "A tuning step, ViT-B/16, 56 pairs, bf16": (*_56_PAIRS, "--precision", "bf16"),
    "A tuning step, ViT-B/16, 56 pairs, bf16, compiled": (
        *(*_56_PAIRS, "--precision", "bf16", "--compile"),
    ),
    "Prompts on ViT-B/16, 64 images": (
        *("prompts.py", "--device", "cuda", "--images", "64", "--repeats", "10"),
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
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/performance.md"))
    args = parser.parse_args()
    sections = dict(SECTIONS)
    if torch.cuda.is_available():
        sections |= ON_A_GPU
    lines = ["# Performance", "", f"{machine()}. One thread; times on a CPU are CPU seconds."]
    for title, (script, *arguments) in sections.items():
        print(f"{title} …", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / script), *arguments]
        text = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.rstrip()
        shown = shlex.join(arguments)
        call = f"`python studies/performance/{script} {shown}".rstrip() + "`"
        lines += ["", f"## {title}", "", call, ""]
        lines.append(text if "|" in text else f"```\n{text}\n```")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
