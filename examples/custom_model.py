"""MISTPlugin on a torchvision ResNet: any model with one classifier works, BatchNorm included."""

import torch
from avalanche.training.supervised import Naive
from torch import nn
from torchvision.models import resnet18

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitGlyphs

benchmark = SplitGlyphs(n_experiences=10)
model = resnet18(weights=None, num_classes=100)  # weights="DEFAULT" for pretrained ones
mist = MISTPlugin(tune_epochs=2, lr=1e-2, tune_on="first")  # finds model.fc by itself

strategy = Naive(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    criterion=nn.CrossEntropyLoss(),
    train_mb_size=32,
    plugins=[mist],
)
strategy.train(benchmark.train_stream[0])
strategy.eval(benchmark.test_stream[:1])

print(mist.selection.table())
