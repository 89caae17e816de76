"""SLCA's Gaussians and alignment: CPU seconds and memory, with a factor stored or made per draw."""

from __future__ import annotations

import argparse
import time

import torch

from mist_avalanche.models.alignment import ClassGaussians, align


class FactoredEachTime(ClassGaussians):
    """Covariances are stored, and factored whenever a class is drawn from, as published."""

    def draw(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        for factor in self.factors.values():
            torch.linalg.cholesky((factor @ factor.T).double())
        return super().draw(n, generator)


def timed(gaussians, n_classes, width):
    """Seconds to add classes, ten experiences of 30 images per class, and to align."""
    began = time.process_time()
    for classes in torch.arange(n_classes).chunk(10):
        labels = classes.repeat_interleave(30)
        gaussians.add(torch.randn(len(labels), width), labels)
    added = time.process_time()
    list(align(torch.randn(n_classes, width), torch.zeros(n_classes), gaussians))
    return added - began, time.process_time() - added


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--width", type=int, nargs="+", default=[192, 768])
    args = parser.parse_args()
    print("| D | classes | Gaussians s | alignment s | factored for every draw s | MB per class |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for width in args.width:
        torch.manual_seed(0)
        timed(ClassGaussians(), 2, width)  # warms up
        ours = timed(ClassGaussians(), args.classes, width)
        each = timed(FactoredEachTime(), args.classes, width)
        size = 4 * width * width / 1e6
        print(
            f"| {width} | {args.classes} | {ours[0]:.1f} | {ours[1]:.1f} | {each[1]:.1f} | "
            f"{size:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
