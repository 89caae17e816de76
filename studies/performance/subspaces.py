"""EASE's features of test images: a pass for each subspace, and all subspaces in one batch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import timm
import torch

from mist_avalanche.models.adapters import Adapter, StackedAdapters
from mist_avalanche.models.backbones import tiny_vit

sys.path.insert(0, str(Path(__file__).parent))
from tuning_step import seconds


@torch.no_grad()
def measure(name: str, images: int, subspaces: int, device: torch.device, repeats: int):
    """Seconds of both, and of the patch embedding alone."""
    torch.manual_seed(0)
    vit = tiny_vit() if name == "embedded" else timm.create_model(name, num_classes=0)
    vit = vit.to(device).eval()
    side = 32 if name == "embedded" else vit.pretrained_cfg["input_size"][-1]
    x = torch.rand(images, 3, side, side, device=device)
    adapters = [Adapter(vit, seed=s).eval() for s in range(subspaces)]
    for p in (p for a in adapters for p in a.parameters()):
        p.normal_(std=0.1)
    stacked = StackedAdapters(adapters)

    def one_by_one():
        return torch.stack([a.of(vit, x) for a in adapters], dim=1)

    difference = (one_by_one() - stacked.of(vit, x)).abs().max()
    return {
        "a pass for each subspace": seconds(one_by_one, device, repeats),
        "all in one batch": seconds(lambda: stacked.of(vit, x), device, repeats),
        "the patch embedding, once": seconds(lambda: vit.patch_embed(x), device, repeats),
    }, float(difference)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["vit_base_patch16_224", "embedded"])
    parser.add_argument("--images", type=int, nargs="+", default=[8])
    parser.add_argument("--subspaces", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("| model, images | | ms | of a pass for each |")
    print("| --- | --- | ---: | ---: |")
    for name in args.model:
        for n in args.images:
            device = torch.device(args.device)
            found, difference = measure(name, n, args.subspaces, device, args.repeats)
            whole = found["a pass for each subspace"]
            for label, value in found.items():
                print(f"| {name}, {n} | {label} | {1e3 * value:.1f} | {value / whole:.2f} |")
            print(f"| {name}, {n} | largest difference {difference:.1e} | | |", flush=True)


if __name__ == "__main__":
    main()
