"""MISTPlugin in a strategy of Avalanche's own: replay on a tuned, sparsely moving backbone."""

import torch
from avalanche.models import IncrementalClassifier
from avalanche.training.supervised import Replay
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.models import create_backbone

benchmark = SplitGlyphs(n_experiences=10)
model = nn.Sequential(create_backbone(), IncrementalClassifier(96))
mist = MISTPlugin.for_backbone("embedded")

strategy = Replay(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    criterion=nn.CrossEntropyLoss(),
    mem_size=200,
    train_mb_size=32,
    train_epochs=5,
    eval_mb_size=64,
    plugins=[mist],
)
for t, experience in enumerate(benchmark.train_stream[:3]):
    strategy.train(experience)
    strategy.eval(benchmark.test_stream[: t + 1])

print(mist.selection.table())
print(f"updated in the last step: {mist.updated_fraction:.2%} of the backbone")
