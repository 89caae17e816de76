"""Ways to follow a backbone that is tuned again, compared on Omniglot.

MIST tunes the embedded backbone before every experience. Each way carries what is stored of past
classes from the features before a tuning to those after it:

- none: nothing is moved.
- shift: by the mean displacement of the current images.
- kernel: by the mean displacement of near current images (Yu et al., SDC, arXiv 2004.00440).
- affine: by a ridge-regularised affine map fitted on the current images.
- views: the same, fitted on four randomly transformed copies as well.
- turned: the same, fitted on the images turned and mirrored; what the strategies do.
- mixed: the same, and on means and halves of pairs of images.
- nonlinear: turned, and a ridge regression of its residual on 500 random features.
- gaussians: turned, of class means and one covariance instead of stored features.
- true: the past images seen again; the bound for all of them.

Prints the error of moved class means (distance over the spread of true class means) and A_T of
SimpleCIL and RanPAC, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch.nn import functional as F

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitOmniglot
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.models.defaults import DEFAULTS, EMBEDDED
from mist_avalanche.models.drift import AffineMap, fit_drift, turned
from mist_avalanche.models.heads import PrototypeHead, RidgeHead
from mist_avalanche.models.memory import GaussianMemory
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
        defaults = DEFAULTS[EMBEDDED]
        settings = {**defaults.mist, **defaults.mist_with_drift, **mist}
        settings |= {"seed": seed, "verbose": False}
        strategy = SimpleCIL(model=self.backbone, plugins=[MISTPlugin(**settings)], evaluator=None)
        self.past, self.views = [], []
        for t, experience in enumerate(benchmark.train_stream):
            x = self.train[t][0]
            torch.manual_seed(t)
            copies = [stacked(experience.dataset.train())[0] for _ in range(4)]
            views = {"views": [x, *copies], "turned": turned(x), "mixed": turned(x) + mixed(x)}
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
    before, after = views[kind if kind in views else "turned"]
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

    def expand(f, columns):
        return (f @ weights[:, columns]).relu()

    order = torch.randperm(len(old), generator=generator)
    ridge = choose_ridge(expand, 500, old[order], residual[order])
    solution = solve_ridge(*sums(expand, 500, old, residual, torch.float64), ridge)
    return lambda f: affine(f) + (expand(f, slice(None)).double() @ solution).float()


def follow(recorder, kind):
    """Stored features and labels after the last experience, each way."""
    labels, memory, stored = recorder.labels, GaussianMemory(), []
    for t, past in enumerate(recorder.past):
        if kind == "true":
            stored = past[:t]
        elif t and kind != "none":
            drift = fit(kind, recorder.views[t], torch.Generator().manual_seed(t))
            if kind == "gaussians":
                memory.move(drift)
            stored = [drift(f) for f in stored]
        stored = [*stored, past[t]]
        if t + 1 < len(recorder.past):
            memory.add(past[t], labels[t])
    if kind != "gaussians":
        return torch.cat(stored), torch.cat(labels)
    features, drawn = memory.recall()
    return torch.cat([features, stored[-1]]), torch.cat([drawn, labels[-1]])


def measure(recorder, kind, m):
    """Error of class means, and A_T of SimpleCIL and RanPAC in percent."""
    features, labels = follow(recorder, kind)
    n_old = int(recorder.labels[-2].max()) + 1

    def means(f, y):
        one_hot = F.one_hot(y).float()
        return (one_hot.T @ f / one_hot.sum(0).unsqueeze(1))[:n_old]

    true = means(torch.cat(recorder.past[-1]), torch.cat(recorder.labels))
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


KINDS = (
    "none",
    "shift",
    "kernel",
    "affine",
    "views",
    "turned",
    "mixed",
    "nonlinear",
    "gaussians",
    "true",
)


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
    results = {kind: [] for kind in KINDS}
    for seed in range(args.seeds):
        recorder = Recorder(benchmark, seed, args.weights, args.mist)
        for kind in KINDS:
            results[kind].append(measure(recorder, kind, DEFAULTS[EMBEDDED].n_random_features))
    print("| way | error of class means | SimpleCIL A_T | RanPAC A_T |\n| --- | --: | --: | --: |")
    for kind, values in results.items():
        mean, std = np.mean(values, 0), np.std(values, 0, ddof=1 if args.seeds > 1 else 0)
        cells = [f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(mean, std, (2, 1, 1), strict=True)]
        print("| " + " | ".join([kind, *cells]) + " |")


if __name__ == "__main__":
    main()
