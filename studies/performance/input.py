"""How fast a data loader gives the images of class folders, at 224 pixels.

Images per second, and CPU milliseconds per image of all processes of the loader, for torchvision's
ImageFolder and for the package's datasets; the best of several rounds. Time counts from the first
batch. Run by ``make bench IMAGES=DIR``.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from mist_avalanche.benchmarks.images import ImageFiles
from mist_avalanche.benchmarks.stream import class_incremental
from mist_avalanche.benchmarks.transforms import center_crop, random_crops


def cpu_seconds():
    """Of this process and of its workers that have ended."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, both))


def epoch(dataset, args):
    """Images per second and CPU milliseconds per image of one epoch."""
    torch.manual_seed(0)
    loader = DataLoader(dataset, args.batch_size, shuffle=True, num_workers=args.num_workers)
    cpu, first, images = cpu_seconds(), None, 0
    for batch in loader:
        if first is None:
            first = time.perf_counter()
        else:
            images += len(batch[1])
    seconds = time.perf_counter() - first
    return images / seconds, 1000 * (cpu_seconds() - cpu) / len(dataset)


def stream(root, transform):
    """All images of a folder, as one experience of a benchmark."""
    folder = ImageFolder(root)
    images = ImageFiles(
        root, [(Path(p).relative_to(root).as_posix(), y) for p, y in folder.samples]
    )
    names = folder.classes
    benchmark = class_incremental(images, images, 1, class_names=names, train_transform=transform)
    return benchmark.train_stream[0].dataset


def measured(root, transform, args):
    """Row names and figures of one round."""
    return {
        "torchvision's ImageFolder": epoch(ImageFolder(root, transform), args),
        "the package": epoch(stream(root, transform), args),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="class folders with images")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for name, transform in (("training", random_crops()), ("evaluation", center_crop())):
        rounds = [measured(args.folder, transform, args) for _ in range(args.rounds)]
        for row in rounds[0]:
            speed = max(r[row][0] for r in rounds)
            cpu = min(r[row][1] for r in rounds)
            table.append((name, row, f"{speed:.0f}", f"{cpu:.2f}"))
    headers = ("transform", "images from", "images/s", "CPU ms/image")
    print(tabulate(table, headers, "github", colalign=("left", "left", "right", "right")))


if __name__ == "__main__":
    main()
