"""Maps that follow a backbone that is tuned again, compared on Omniglot.

MIST tunes the embedded backbone before every experience. Each map moves the stored features of past
classes from those before a tuning to those after it:

- none: nothing is moved.
- shift: the mean displacement of the current images.
- kernel: the mean displacement of near current images (Yu et al., SDC, arXiv 2004.00440).
- affine: a ridge-regularised affine map, fitted on the current images.
- views: the same, fitted on four randomly transformed copies as well.
- rotated: the same, fitted on rotated and mirrored images; what the strategies do.
- mixed: the same, and on means and halves of pairs of images.
- nonlinear: rotated, and a ridge regression of its residual on 500 random features.
- true: features of the past images, computed again; the upper bound.

Prints the error of moved class means (their distance from the true ones, divided by the spread of
those) and A_T of SimpleCIL and RanPAC, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch.nn import functional as F

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitOmniglot
from mist_avalanche.models import backbone_defaults, create_backbone
from mist_avalanche.models.drift import AffineMap, fit_drift, rotations_and_flips
from mist_avalanche.models.heads import PrototypeHead, RidgeHead
from mist_avalanche.models.ridge import choose_ridge, solve_ridge, sums
from mist_avalanche.strategies import SimpleCIL


def stacked(dataset):
    """Images (n, C, H, W) and labels (n,) of a dataset."""
    items = [(x, y) for x, y, *_ in dataset]
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


def mixed(x):
    """Means and halves of pairs of images: four views (B, C, H, W)."""
    a, b, half = x, x.roll(len(x) // 2, 0), x.shape[3] // 2
    return [
        (a + b) / 2,
        (a + a.roll(1, 0)) / 2,
        torch.cat([a[..., :half], b[..., half:]], 3),
        torch.cat([a[..., :half, :], b[..., half:, :]], 2),
    ]


class Recorder:
    """Features of the same images before and after every tuning."""

    def __init__(self, benchmark, seed, weights, mist):
        self.train = [stacked(e.dataset.eval()) for e in benchmark.train_stream]
        self.test = [stacked(e.dataset.eval()) for e in benchmark.test_stream]
        self.backbone = create_backbone(weights=weights)
        plugin = MISTPlugin.for_backbone(
            "embedded", drift_compensation=True, seed=seed, verbose=False, **mist
        )
        strategy = SimpleCIL(model=self.backbone, plugins=[plugin], evaluator=None)
        self.past, self.views = [], []
        for t, experience in enumerate(benchmark.train_stream):
            x = self.train[t][0]
            torch.manual_seed(t)
            copies = [stacked(experience.dataset.train())[0] for _ in range(4)]
            rotated = rotations_and_flips(x)
            views = {"views": [x, *copies], "rotated": rotated, "mixed": rotated + mixed(x)}
            before = {name: self.features(v) for name, v in views.items()}
            strategy.train(experience)
            self.views.append({n: (before[n], self.features(v)) for n, v in views.items()})
            self.past.append([self.features([x])[:, 0] for x, _ in self.train])

    @torch.no_grad()
    def features(self, views):
        """(n, V, D) of views of n images."""
        self.backbone.eval()
        return torch.stack([self.backbone(x) for x in views], dim=1)

    @property
    def labels(self):
        return [y for _, y in self.train]


def fit(kind, views, generator):
    """A map of the given kind."""
    before, after = views[kind if kind in views else "rotated"]
    if kind in ("shift", "kernel", "affine"):
        before, after = before[:, :1], after[:, :1]
    if kind == "shift":
        shift = (after - before).mean((0, 1)).double()
        return AffineMap(torch.eye(len(shift)).double(), shift)
    if kind == "kernel":
        old, moved = before[:, 0], (after - before)[:, 0]

        def kernel(f):
            distance = torch.cdist(f, old)
            width = distance.amin(1).mean()
            return f + (-(distance**2) / (2 * width**2)).softmax(1) @ moved

        return kernel
    affine = fit_drift(before, after, generator)
    if kind != "nonlinear":
        return affine
    old = before.flatten(0, 1)
    residual = (after.flatten(0, 1) - affine(old)).double()
    weights = torch.randn(old.shape[1], 500, generator=generator) / old.norm(dim=1).mean()

    def expand(f):
        return (f @ weights).relu()

    order = torch.randperm(len(old), generator=generator)
    ridge = choose_ridge(expand, 500, old[order], residual[order])
    solution = solve_ridge(*sums(expand, 500, old, residual), ridge)
    return lambda f: affine(f) + (expand(f).double() @ solution).float()


def follow(recorder, kind):
    """Stored features after the last experience."""
    stored = []
    for t, past in enumerate(recorder.past):
        if kind == "true":
            stored = past[:t]
        elif t and kind != "none":
            drift = fit(kind, recorder.views[t], torch.Generator().manual_seed(t))
            stored = [drift(f) for f in stored]
        stored = [*stored, past[t]]
    return torch.cat(stored)


def measure(recorder, kind, m):
    """Error of class means, and A_T of SimpleCIL and RanPAC in percent."""
    features, labels = follow(recorder, kind), torch.cat(recorder.labels)
    n_old = int(recorder.labels[-2].max()) + 1

    def means(f, y):
        one_hot = F.one_hot(y).float()
        return (one_hot.T @ f / one_hot.sum(0).unsqueeze(1))[:n_old]

    true = means(torch.cat(recorder.past[-1]), labels)
    error = (means(features, labels) - true).norm(dim=1).mean()
    spread = (true - true.mean(0)).norm(dim=1).mean()
    prototypes, ridge = PrototypeHead(), RidgeHead(m)
    for head in (prototypes, ridge):
        head.update(features, labels)
    ridge.choose_ridge(recorder.past[-1][-1], recorder.labels[-1], torch.Generator().manual_seed(0))
    ridge.solve()
    test = recorder.features([torch.cat([x for x, _ in recorder.test])])[:, 0]
    targets = torch.cat([y for _, y in recorder.test])
    accuracies = [
        100 * (h(test).argmax(1) == targets).float().mean().item() for h in (prototypes, ridge)
    ]
    return [float(error / spread), *accuracies]


KINDS = ("none", "shift", "kernel", "affine", "views", "rotated", "mixed", "nonlinear", "true")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset-root", required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--experiences", type=int, default=10)
    parser.add_argument("--weights", help="of the backbone, instead of the package's")
    parser.add_argument("--mist", type=json.loads, default={}, help="arguments of MIST, as JSON")
    args = parser.parse_args()
    benchmark = SplitOmniglot(args.experiences, dataset_root=args.dataset_root)
    m = backbone_defaults("embedded").n_random_features
    results = {kind: [] for kind in KINDS}
    for seed in range(args.seeds):
        recorder = Recorder(benchmark, seed, args.weights, args.mist)
        for kind in KINDS:
            results[kind].append(measure(recorder, kind, m))
    print("| map | error of class means | SimpleCIL A_T | RanPAC A_T |\n| --- | --: | --: | --: |")
    for kind, values in results.items():
        mean, std = np.mean(values, 0), np.std(values, 0, ddof=1 if args.seeds > 1 else 0)
        cells = [f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(mean, std, (2, 1, 1), strict=True)]
        print("| " + " | ".join([kind, *cells]) + " |")


if __name__ == "__main__":
    main()
