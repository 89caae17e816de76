"""A strategy of your own, linear discriminant analysis, compared with those of the package.

mist-avalanche compare --strategies simplecil+mist,./examples/own_strategy.py:LDA+mist
"""

import torch

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.models import BackboneWithHead, PrototypeHead, create_backbone
from mist_avalanche.strategies import FeatureStrategy


class LDAHead(PrototypeHead):
    """Logits f Σ⁻¹ μ_c - μ_cᵀ Σ⁻¹ μ_c / 2, of class means μ_c and one covariance Σ."""

    def __init__(self, shrinkage):
        super().__init__()
        self.shrinkage = shrinkage
        self.register_buffer("scatter", torch.zeros((), dtype=torch.float64))

    def update(self, features, labels):
        super().update(features, labels)  # sums and counts per class
        for y in torch.unique(labels):
            own = features[labels == y].double()
            own = own - own.mean(0)
            self.scatter = self.scatter + own.T @ own  # (D, D)

    def move(self, drift):  # of the features, f ↦ f W + b, where drift is compensated
        super().move(drift)
        self.scatter = drift.weight.T @ self.scatter @ drift.weight

    def forward(self, features):
        if not self.seen.any():
            return super().forward(features)
        covariance = self.scatter / self.counts.sum()
        covariance.diagonal().add_(self.shrinkage * covariance.diagonal().mean())
        weight = torch.linalg.solve(covariance, self.prototypes.T)  # (D, C)
        logits = features.double() @ weight - (self.prototypes.T * weight).sum(0) / 2
        return logits.to(features.dtype).masked_fill(~self.seen, -1000.0)


class LDA(FeatureStrategy):
    """The base extracts features, calls `fit`, caches test features and saves the state."""

    def __init__(self, *, model, shrinkage: float = 0.1, **common):
        super().__init__(model=BackboneWithHead(model, LDAHead(shrinkage)), **common)

    def fit(self, features, labels):
        self.head.update(features, labels)


if __name__ == "__main__":
    benchmark = SplitGlyphs(n_experiences=10)
    mist = MISTPlugin.for_backbone("embedded", tune_epochs=5)
    strategy = LDA(model=create_backbone("embedded"), plugins=[mist])
    for t, experience in enumerate(benchmark.train_stream[:2]):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[: t + 1])
