"""SLCA's Gaussians and alignment: CPU seconds and memory, beside a covariance factored a draw."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import nn

from mist_avalanche.models.alignment import ClassGaussians, align, standard_normal


class FactoredEachTime(ClassGaussians):
    """Covariances are kept, and factored whenever a class is drawn from, as is published."""

    def draw(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        for factor in self.factors.values():
            torch.linalg.cholesky((factor @ factor.T).double())
        return super().draw(n, generator)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--width", type=int, nargs="+", default=[192, 768])
    args = parser.parse_args()
    print("| D | classes | Gaussians s | alignment s | factored for every draw s | MB a class |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for width in args.width:
        torch.manual_seed(0)
        warm = ClassGaussians()
        warm.add(standard_normal(60, torch.zeros(width), None), torch.arange(2).repeat(30))
        list(align(nn.Linear(width, 2), warm))
        gaussians: dict[str, Any] = {"ours": ClassGaussians(), "each": FactoredEachTime()}
        found = {}
        for name, kind in gaussians.items():
            began = time.process_time()
            for classes in torch.arange(args.classes).chunk(10):
                features = standard_normal(30 * len(classes), torch.zeros(width), None)
                kind.add(features, classes.repeat_interleave(30))
            added = time.process_time()
            list(align(nn.Linear(width, args.classes), kind))
            found[name] = added - began, time.process_time() - added
        size = 4 * width * width / 1e6
        print(
            f"| {width} | {args.classes} | {found['ours'][0]:.1f} | {found['ours'][1]:.1f} | "
            f"{found['each'][1]:.1f} | {size:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
