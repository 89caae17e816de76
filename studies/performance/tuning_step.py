"""What a step of sparse tuning costs besides its forward and backward pass, in time and memory.

It is compared with the published way (gradients of unselected entries set to zero by boolean masks,
a Bernoulli draw for every entry of the backbone, an SGD step of all of it) and with one
multiplication by a precomputed scale. Weights and images are random.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from torch import nn

from mist_avalanche.method import SparseSGD, SupervisedInfoNCE, select
from mist_avalanche.method.freezing import FrozenEntries
from mist_avalanche.method.selection import random_scores
from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.models.classifier import FeatureExtractor, always_selected
from mist_avalanche.models.forward import Forward

DROP_RATE = 0.9
SGD = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}


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


def size(tensors):
    """Bytes of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def measure(name, pairs, device, *, repeats=3, precision="32", compile=False):
    """Label to seconds, and label to bytes divided by those of the backbone."""
    torch.manual_seed(0)
    backbone = tiny_vit() if name == "embedded" else timm.create_model(name, num_classes=0)
    image_size = 32 if name == "embedded" else backbone.pretrained_cfg["input_size"][-1]
    width = backbone.num_features
    model = nn.Sequential(backbone, nn.Linear(width, 10)).to(device)
    extract, whole = FeatureExtractor(model, "1"), always_selected(model)
    named = extract.backbone()
    parameters = [*named.values()]
    always = {n for n, p in named.items() if id(p) in whole}
    masks = select(random_scores(named, 0), 0.05, always).masks
    projection = nn.Linear(width, 128).to(device)
    loss = SupervisedInfoNCE(0.07)
    x = torch.rand(2 * pairs, 3, image_size, image_size, device=device)
    y = torch.arange(pairs, device=device) % 5
    generator = torch.Generator(device).manual_seed(0)

    def passes(forward):
        model.zero_grad()
        loss(projection(forward(extract, x)), y).backward()

    ours = Forward(precision, compile=compile)
    found = {"forward and backward": seconds(lambda: passes(ours), device, repeats)}
    plain_passes = found["forward and backward"]
    if precision != "32" or compile:
        plain_passes = seconds(lambda: passes(Forward("32")), device, repeats)
        found["the same in float32, not compiled"] = plain_passes
    gradients = [p.grad.clone() for p in parameters]

    def step(optimizer, changed):
        """Seconds of a step with gradients that ``changed`` gives."""

        def run():
            for p, gradient in zip(parameters, changed(), strict=True):
                p.grad = gradient
            optimizer.step()

        return seconds(run, device, 3 * repeats)

    groups = [
        {"params": parameters, "masks": [masks[name] for name in named]},
        {"params": [*projection.parameters()], "lr": 1e-2, "drop_rate": 0.0},
    ]
    sparse = SparseSGD(groups, **SGD, drop_rate=DROP_RATE, generator=generator)
    found["a tuning step (SparseSGD)"] = step(sparse, lambda: gradients)
    kept = {
        "masks of the selection": size(masks.values()),
        "momentum of SparseSGD": size(t for state in sparse.state.values() for t in state.values()),
        "its weights, or its gradients, as one vector": size(parameters),
        "weights and their copy while a strategy trains": 2 * size(parameters),
    }

    host = torch.optim.SGD(parameters, **SGD)
    alone = step(host, lambda: gradients)
    frozen = FrozenEntries(named, masks, scales={}, drop_rate=DROP_RATE, generator=generator)

    def masked_step():
        frozen.mask_gradients()
        host.step()
        frozen.put_back()

    found["masking a strategy's own step"] = seconds(masked_step, device, 3 * repeats) - alone

    def published():
        for gradient, mask in zip(gradients, masks.values(), strict=True):
            gradient = torch.where(mask, gradient, 0)
            keep = torch.bernoulli(torch.full_like(gradient, 1 - DROP_RATE)).bool()
            yield torch.where(keep, gradient, 0)

    scales = [mask.to(p.dtype) for mask, p in zip(masks.values(), parameters, strict=True)]
    found["the published masked step"] = step(host, published)
    found["a dense precomputed scale, SGD"] = step(
        host, lambda: torch._foreach_mul(gradients, scales)
    )
    found["all of the plain loop"] = plain_passes + found["the published masked step"]
    found["all of ours"] = found["forward and backward"] + found["a tuning step (SparseSGD)"]
    return found, {label: bytes_ / size(parameters) for label, bytes_ in kept.items()}


def table(found, kept):
    """Both as Markdown."""
    whole = found["forward and backward"]
    lines = ["| | ms | of forward and backward |", "| --- | ---: | ---: |"]
    lines += [f"| {k} | {1e3 * v:.1f} | {v / whole:.1%} |" for k, v in found.items()]
    ratio = found["all of the plain loop"] / found["all of ours"]
    lines += ["", f"All of ours is {ratio:.2f} times as fast as the plain loop.", ""]
    lines += ["| memory | sizes of the backbone |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| {k} | {v:.3f} |" for k, v in kept.items())])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224", help="or 'embedded'")
    parser.add_argument("--pairs", type=int, default=8, help="images per batch, each in two views")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("repeats", "precision", "compile")}
    print(table(*measure(args.model, args.pairs, args.device, **settings)))


if __name__ == "__main__":
    main()
