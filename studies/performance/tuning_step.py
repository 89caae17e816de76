"""What a step of sparse tuning costs beside its forward and backward pass, and what MIST keeps.

The published way, as the paper and its code describe it: gradients of unselected entries set to
zero through boolean masks, a Bernoulli draw for every entry of the backbone, and an SGD step of all
of it. Random weights and images do for timing.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from torch import nn

from mist_avalanche.method.gradients import SelectedEntries
from mist_avalanche.method.guard import StepGuard
from mist_avalanche.method.losses import SupervisedInfoNCE
from mist_avalanche.method.selection import random_scores, select
from mist_avalanche.method.sgd import SparseSGD
from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.models.features import FeatureExtractor, always_selected
from mist_avalanche.models.forward import Forward


def seconds(f, device, repeats):
    """Median seconds of a call: CPU seconds, or those of a GPU that is waited for."""
    found = []
    for _ in range(repeats + 1):  # the first one warms up
        if device.type == "cuda":
            torch.cuda.synchronize()
            start = time.perf_counter()
            f()
            torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
        else:
            start = time.process_time()
            f()
            found.append(time.process_time() - start)
    return statistics.median(found[1:])


def size(*tensors):
    """Bytes of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


class Published:
    """Boolean masks, a draw for every entry, SGD on every entry."""

    def __init__(self, parameters, masks, drop_rate=0.9):
        self.parameters, self.masks, self.drop_rate = list(parameters), masks, drop_rate
        self.sgd = torch.optim.SGD(self.parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def step(self, gradients):
        for p, mask, gradient in zip(self.parameters, self.masks, gradients, strict=True):
            gradient = gradient.clone()
            gradient[~mask] = 0
            kept = torch.bernoulli(torch.full_like(gradient, 1 - self.drop_rate)).bool()
            gradient[~kept] = 0
            p.grad = gradient
        self.sgd.step()
        self.sgd.zero_grad()


class DenseScale:
    """One multiplication by a precomputed scale for every entry, and SGD on every entry."""

    def __init__(self, parameters, masks):
        self.parameters = list(parameters)
        self.scales = [mask.to(p.dtype) for p, mask in zip(self.parameters, masks, strict=True)]
        self.sgd = torch.optim.SGD(self.parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def step(self, gradients):
        scaled = torch._foreach_mul(list(gradients), self.scales)
        for p, gradient in zip(self.parameters, scaled, strict=True):
            p.grad = gradient
        self.sgd.step()
        self.sgd.zero_grad()


def measure(name, pairs, device, *, repeats=3, precision="32", compile=False, published=True):
    """Label to seconds, and label to bytes over those of the backbone."""
    torch.manual_seed(0)
    backbone = tiny_vit() if name == "embedded" else timm.create_model(name, num_classes=0)
    image_size = 32 if name == "embedded" else backbone.pretrained_cfg["input_size"][-1]
    width = backbone.num_features
    model = nn.Sequential(backbone, nn.Linear(width, 10)).to(device)
    extract = FeatureExtractor(model, "1")
    parameters = extract.backbone()
    always = {n for n, p in parameters.items() if id(p) in always_selected(model)}
    selection = select(random_scores(parameters, 0), 0.05, always)
    head = nn.Linear(width, 128).to(device)
    loss = SupervisedInfoNCE(0.07)
    forward = Forward(precision, compile=compile)
    x = torch.rand(2 * pairs, 3, image_size, image_size, device=device)
    y = torch.arange(pairs, device=device) % 5
    generator = torch.Generator(device).manual_seed(0)
    entries = SelectedEntries(parameters, selection.entries)
    sgd = SparseSGD(
        entries,
        list(head.parameters()),
        lr=1e-4,
        projection_lr=1e-2,
        drop_rate=0.9,
        generator=generator,
    )
    gradients = []

    def passes(run=forward):
        gradients[:] = torch.autograd.grad(loss(head(run(extract, x)), y), sgd.parameters)

    found = {"forward and backward": seconds(passes, device, repeats)}
    plain_passes = found["forward and backward"]
    if precision != "32" or compile:
        plain_passes = seconds(lambda: passes(Forward("32")), device, repeats)
        found["the same in float32, not compiled"] = plain_passes
    sound = torch.tensor(True, device=device)
    found["a tuning step (SparseSGD)"] = seconds(
        lambda: sgd.step(gradients, sound), device, 3 * repeats
    )
    n = len(entries.parameters)
    kept = {
        "selection": size(
            *(e.positions for e in selection.entries.values() if len(e) < e.shape.numel())
        ),
        "momentum": size(sgd._momentum),
    }

    guard = StepGuard(entries, 0.9, generator)
    plain = torch.optim.SGD(entries.parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)
    for p, gradient in zip(entries.parameters, gradients[:n], strict=True):
        p.grad = gradient.clone()
    alone = seconds(plain.step, device, 3 * repeats)
    guard.attach(plain)

    def guarded():
        guard.mask_gradients()
        plain.step()

    found["masking a host's own step"] = seconds(guarded, device, 3 * repeats) - alone
    kept["the copy beside a host's step"] = size(*guard._copy)
    guard.detach()
    if published:
        masks = [selection.masks[name] for name in entries.names]
        theirs = Published(entries.parameters, masks)
        found["the published masked step"] = seconds(
            lambda: theirs.step(gradients[:n]), device, repeats
        )
        dense = DenseScale(entries.parameters, masks)
        found["a dense precomputed scale, SGD"] = seconds(
            lambda: dense.step(gradients[:n]), device, repeats
        )
        theirs_and_ours = (
            plain_passes + found["the published masked step"],
            found["forward and backward"] + found["a tuning step (SparseSGD)"],
        )
        found["all of the plain float32 loop, published step"] = theirs_and_ours[0]
        found["all of ours"] = theirs_and_ours[1]
    backbone_bytes = size(*entries.parameters)
    return found, {label: bytes_ / backbone_bytes for label, bytes_ in kept.items()}


def table(found, kept):
    """Both as Markdown."""
    whole = found["forward and backward"]
    lines = ["| | ms | of forward and backward |", "| --- | ---: | ---: |"]
    lines += [f"| {k} | {1e3 * v:.1f} | {v / whole:.1%} |" for k, v in found.items()]
    if "all of ours" in found:
        ratio = found["all of the plain float32 loop, published step"] / found["all of ours"]
        lines += ["", f"All of ours is {ratio:.2f} times as fast as the plain loop.", ""]
    lines += ["| state | x the backbone |", "| --- | ---: |"]
    lines += [f"| {k} | {v:.3f} |" for k, v in kept.items()]
    return "\n".join([*lines, f"| all at once | {sum(kept.values()):.3f} |"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224", help="or 'embedded'")
    parser.add_argument("--pairs", type=int, default=8, help="images a batch, each in two views")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(
        table(
            *measure(
                args.model,
                args.pairs,
                device,
                repeats=args.repeats,
                precision=args.precision,
                compile=args.compile,
            )
        )
    )


if __name__ == "__main__":
    main()
