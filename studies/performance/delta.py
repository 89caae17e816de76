"""Size of a sparse delta, and the seconds that saving, applying, reverting and switching take.

Prints a Markdown table for the embedded backbone and for ViT-B/16 with random weights, each with
5 % random entries of every tensor changed. Seconds are wall-clock, the median of several, on one
thread; the size is that of the delta over that of the checkpoint. Run by ``make bench``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from mist_avalanche.deltas.delta import DeltaSet, apply_delta, revert_delta, save_delta
from mist_avalanche.models.backbones import create_backbone


def moved(base, rate, seed):
    """A copy of a model with random entries of every tensor moved."""
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape, generator=generator) < rate] += 1e-3
    return model


def copied(model):
    """A copy of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def seconds(*actions, repeats):
    """Median wall-clock seconds of each of some actions, done in turn."""
    times = [[] for _ in actions]
    for _ in range(repeats):
        for action, record in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def row(name, base, rate, folder, repeats):
    """Measure one backbone."""
    save_file(base.state_dict(), folder / "base.safetensors")
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    expected = {None: copied(base)}
    for seed, file in enumerate(files):
        adapted = moved(base, rate, seed)
        expected[file.stem] = copied(adapted)
        (save,) = seconds(partial(save_delta, adapted, base, file), repeats=3)
    apply, revert = seconds(
        lambda: apply_delta(base, files[0]), lambda: revert_delta(base, files[0]), repeats=3
    )
    (load,) = seconds(lambda: DeltaSet(base, files), repeats=1)
    deltas = DeltaSet(base, files)
    to_a, to_b, back = seconds(
        lambda: deltas.switch("a"),
        lambda: deltas.switch("b"),
        lambda: deltas.switch(None),
        repeats=repeats,
    )
    for name_of_delta, state in expected.items():
        deltas.switch(name_of_delta)
        assert all(torch.equal(state[k], v) for k, v in base.state_dict().items())
    size = files[0].stat().st_size
    ratio = size / (folder / "base.safetensors").stat().st_size
    times = " | ".join(f"{1e3 * t:.1f}" for t in (save, apply, revert, load, to_a, to_b, back))
    return f"| {name} | {deltas.changed('a')} | {size / 1e6:.2f} | {ratio:.2%} | {times} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.05, help="share of entries that changed")
    parser.add_argument("--repeats", type=int, default=15, help="of the switches")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| backbone | entries | MB | of the checkpoint | save ms | apply ms | revert ms "
        "| two loaded ms | base → a ms | a → b ms | b → base ms |"
    )
    print("| --- |" + " ---: |" * 10)
    with tempfile.TemporaryDirectory() as folder:
        vit = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0)
        for name, base in (("embedded", create_backbone()), ("ViT-B/16", vit)):
            print(row(name, base, args.rate, Path(folder), args.repeats))


if __name__ == "__main__":
    main()
