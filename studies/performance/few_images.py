"""RanPAC's ridge with few images per class: A_T by how it is chosen, for docs/ridge.md.

``python studies/performance/few_images.py --dataset-root DIR``
"""

import argparse
from statistics import mean, stdev

import torch
from torch.nn import functional as F

from mist_avalanche.benchmarks import SplitGlyphs, SplitOmniglot
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.models.heads import RidgeHead
from mist_avalanche.models.ridge import choose_ridge

WAYS = ("published", "ours", 1.0, 1e4, 1e5, 1e6)


@torch.no_grad()
def features(stream, backbone):
    """Features and labels of every experience."""
    found = []
    for experience in stream:
        images = [(x, y) for x, y, *_ in experience.dataset.eval()]
        x = torch.stack([x for x, _ in images])
        found.append((backbone(x), torch.tensor([y for _, y in images])))
    return found


def accuracies(train, test, per_class, seed, width):
    """A_T of each way, with some images of every class and random features of a seed."""
    head, g, kept = RidgeHead(width, seed), torch.Generator().manual_seed(seed), []
    for f, y in train:
        rows = [(y == c).nonzero().squeeze(1) for c in y.unique()]
        rows = torch.cat([r[torch.randperm(len(r), generator=g)[:per_class]] for r in rows])
        kept.append((f[rows], y[rows]))
    f, y = kept[-1]  # which every way that chooses looks at, in the same order
    head.choose_ridge(f, y, torch.Generator().manual_seed(seed))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    targets = F.one_hot(y.unique(return_inverse=True)[1][order])
    published = choose_ridge(head.expand, width, f[order], targets)
    chosen = {"published": published, "ours": float(head.ridge)}

    f, y = (torch.cat(parts) for parts in zip(*kept, strict=True))
    x, labels = (torch.cat(parts) for parts in zip(*test, strict=True))
    h = head.expand(f).double()
    gram, between = h @ h.T, head.expand(x).double() @ h.T  # (n, n), (N, n)
    found = {}
    for way in WAYS:  # h (HᵀH + λ)⁻¹ HᵀY = h Hᵀ (H Hᵀ + λ)⁻¹ Y
        ridge = max(chosen.get(way, way), 1e-15 * float(gram.trace()))
        logits = between @ torch.linalg.solve(
            gram + ridge * torch.eye(len(y)), F.one_hot(y).double()
        )
        found[way] = 100 * float((logits.argmax(1) == labels).float().mean())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset-root", required=True, help="of Omniglot")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--weights", help="of the backbone, instead of the package's")
    parser.add_argument("--width", type=int, default=5000, help="M")
    args = parser.parse_args()
    backbone = create_backbone(weights=args.weights).eval()
    benchmarks = {
        "glyphs": SplitGlyphs(10),
        "omniglot": SplitOmniglot(10, dataset_root=args.dataset_root, image_size=32),
    }
    print("| | images per class |", *(f"{w} |" if isinstance(w, str) else f"{w:g} |" for w in WAYS))
    print("| --- | --: |" + " --: |" * len(WAYS))
    for name, benchmark in benchmarks.items():
        train, test = (
            features(s, backbone) for s in (benchmark.train_stream, benchmark.test_stream)
        )
        for per_class in (1, 2, 5, 10):
            runs = [accuracies(train, test, per_class, s, args.width) for s in range(args.seeds)]
            cells = ([run[way] for run in runs] for way in WAYS)
            print(
                f"| {name} | {per_class} |", *(f"{mean(c):.1f} ± {stdev(c):.1f} |" for c in cells)
            )


if __name__ == "__main__":
    main()
