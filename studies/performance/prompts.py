"""What a pass with prompts costs, compared with the plain ViT's forward and backward pass.

There are two plain passes: one with gradients of all weights, as in fine-tuning, and one with
gradients through all blocks to the image alone, which is what prompts need of a frozen ViT.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import timm
import torch
from torch import nn

from mist_avalanche.models.prompts import (
    ComponentPrompts,
    GeneralExpertPrompts,
    PromptedViT,
    PromptPool,
)

sys.path.insert(0, str(Path(__file__).parent))
from tuning_step import seconds

MODULES = {
    "prefixes of 5 at five blocks (DualPrompt)": GeneralExpertPrompts,
    "prefixes of 4 at five blocks (CODA-Prompt, 10 components)": ComponentPrompts,
    "25 tokens (L2P)": PromptPool,
}


def measure(name, images, device, repeats):
    """Label to seconds."""
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0).to(device).eval()
    x = torch.rand(images, *vit.pretrained_cfg["input_size"], device=device)
    weights = [*vit.parameters()]
    vit.requires_grad_(True)
    found = {
        "plain, gradients of all weights": seconds(
            lambda: torch.autograd.grad(vit(x).sum(), weights), device, repeats
        )
    }
    vit.requires_grad_(False)
    pixels = x.clone().requires_grad_(True)
    found["plain, gradients through all blocks"] = seconds(
        lambda: torch.autograd.grad(vit(pixels).sum(), pixels), device, repeats
    )
    for label, make in MODULES.items():
        prompts = make(vit.embed_dim).to(device)
        prompts.begin_experience()
        model = PromptedViT(vit, prompts, nn.Identity())
        query = model.query(x)
        trained = [p for p in prompts.parameters() if p.requires_grad]

        def passes(model=model, query=query, trained=trained):
            loss = model(x, query).sum() + model.output.loss
            torch.autograd.grad(loss, trained, allow_unused=True)

        found[label] = seconds(passes, device, repeats)
    found["the query"] = seconds(lambda: model.query(x), device, repeats)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    found = measure(args.model, args.images, torch.device(args.device), args.repeats)
    whole, through = list(found.values())[:2]
    print("| | ms | of the plain pass, all weights | of the plain pass, all blocks |")
    print("| --- | ---: | ---: | ---: |")
    for label, value in found.items():
        print(f"| {label} | {1e3 * value:.0f} | {value / whole:.2f} | {value / through:.2f} |")


if __name__ == "__main__":
    main()
