"""MISTPlugin in a strategy of your own: a training loop that clips and averages gradients."""

import torch
from avalanche.models import IncrementalClassifier
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.models import create_backbone


class Averaging(SupervisedTemplate):
    """One step for every two batches; only the usual hooks are called."""

    def training_epoch(self, **kwargs):
        self.optimizer.zero_grad()
        for i, self.mbatch in enumerate(self.dataloader):
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.criterion() / 2
            self._before_backward(**kwargs)
            self.loss.backward()
            self._after_backward(**kwargs)
            if i % 2:
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self._before_update(**kwargs)
                self.optimizer.step()
                self._after_update(**kwargs)
                self.optimizer.zero_grad()
            self._after_training_iteration(**kwargs)


benchmark = SplitGlyphs(n_experiences=10)
model = nn.Sequential(create_backbone(), IncrementalClassifier(96))
before = {name: p.detach().clone() for name, p in model[0].named_parameters()}
mist = MISTPlugin.for_backbone("embedded", tune_epochs=2)
strategy = Averaging(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    train_mb_size=32,
    train_epochs=2,
    plugins=[mist],
)
strategy.train(benchmark.train_stream[0])

moved = sum(int((p != before[name]).sum()) for name, p in model[0].named_parameters())
print(f"moved: {moved / mist.selection.total:.2%} of the backbone")
