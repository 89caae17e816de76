"""Ridge choice and final solve at the published size, compared with the published code's way.

Prints CPU seconds on one thread, the speed-up, the chosen ridges, the largest difference of logits,
and the peak memory in sizes of G.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch.nn import functional as F

from mist_avalanche.models.heads import RidgeHead
from mist_avalanche.models.ridge import RIDGES


def published_way(h, targets, gram, cross):
    """One LU solve per candidate on 80 % of the rows, in float32, then one of the sums."""
    cut = int(0.8 * len(h))
    train_gram, train_cross = h[:cut].T @ h[:cut], h[:cut].T @ targets[:cut]
    losses = []
    for ridge in RIDGES:
        weight = torch.linalg.solve(train_gram + ridge * torch.eye(len(train_gram)), train_cross)
        losses.append(F.mse_loss(h[cut:] @ weight, targets[cut:]).item())
    ridge = RIDGES[losses.index(min(losses))]
    return ridge, torch.linalg.solve(gram + ridge * torch.eye(len(gram)), cross)


def cpu_seconds(f):
    """What a call returns, and the CPU seconds it took."""
    start = time.process_time()
    result = f()
    return result, time.process_time() - start


def peak_bytes():
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random-features", type=int, default=10000, metavar="M")
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--ours-only", action="store_true", help="without the published way")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    width, classes, present = 768, 200, 20
    labels = torch.randint(present, (args.rows,), generator=generator)
    means = torch.randn(classes, width, generator=generator)
    features = means[labels] + 2 * torch.randn(args.rows, width, generator=generator)
    centres = means[labels[:256]]
    test = centres + 2 * torch.randn(centres.shape, generator=generator)

    head = RidgeHead(args.random_features, dtype=getattr(torch, args.dtype))
    before = peak_bytes()
    _, update = cpu_seconds(lambda: head.update(features, labels))
    head.grow(classes)

    def ours():
        head.choose_ridge(features, labels, torch.Generator().manual_seed(1))
        head.solve()

    _, seconds = cpu_seconds(ours)
    size = head.gram.numel() * head.gram.element_size()
    print(f"M {args.random_features}, n {args.rows}, C {classes}, {args.dtype}, one thread")
    print(f"G and Q updated:           {update:8.1f} s")
    print(f"ridge and solve:           {seconds:8.1f} s, ridge {float(head.ridge):g}")
    peak = (peak_bytes() - before) / size
    print(f"peak of memory:            {peak:8.2f} x G, {size / 1e6:.0f} MB")
    if args.ours_only:
        return
    order = torch.randperm(args.rows, generator=torch.Generator().manual_seed(1))
    h, targets = head.expand(features[order]), F.one_hot(labels[order], classes).float()
    gram, cross = head.gram.float(), head.cross.float()
    (ridge, weight), published = cpu_seconds(lambda: published_way(h, targets, gram, cross))
    difference = (head.expand(test) @ weight - head(test)[:, :classes]).abs()[:, :present].max()
    print(f"17 + 1 LU solves, float32: {published:8.1f} s, ridge {ridge:g}")
    print(f"speed-up:                  {published / seconds:8.1f} x")
    print(f"logits differ by at most   {difference:8.1e}")


if __name__ == "__main__":
    main()
