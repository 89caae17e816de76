"""Sparse deltas: size, and wall-clock milliseconds to save, apply and revert one.

5 % random entries of every tensor differ from the base; one thread, median of three.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from mist_avalanche.deltas import apply_delta, revert_delta, save_delta
from mist_avalanche.models import create_backbone

RATE = 0.05


def milliseconds(*actions):
    """Median of each of some actions, done in turn three times."""
    times = [[] for _ in actions]
    for _ in range(3):
        for action, found in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            found.append(1e3 * (time.perf_counter() - start))
    return [f"{statistics.median(found):.0f}" for found in times]


def row(name, base):
    """Of a table."""
    adapted = copy.deepcopy(base)
    for p in adapted.parameters():
        p.data += 1e-3 * (torch.rand(p.shape) < RATE)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "delta.safetensors"
        times = milliseconds(
            lambda: save_delta(adapted, base, file),
            lambda: apply_delta(base, file),
            lambda: revert_delta(base, file),
        )
        size = file.stat().st_size
    whole = sum(p.numel() * p.element_size() for p in base.parameters())
    return f"| {name} | {size / 1e6:.2f} | {size / whole:.1%} | {' | '.join(times)} |"


if __name__ == "__main__":
    print("| backbone | MB | of the checkpoint | save | apply | revert |")
    print("| --- |" + " ---: |" * 5)
    print(row("embedded", create_backbone()))
    print(row("ViT-B/16", timm.create_model("vit_base_patch16_224", num_classes=0)))
