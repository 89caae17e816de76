"""Models of which torch itself makes something special, in an Avalanche run."""

import pytest
import torch
from avalanche.training.supervised import Naive
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from mist_avalanche import MISTPlugin
from mist_avalanche.models.features import find_classifier


class Net(nn.Module):
    def __init__(self, norm=lambda layer: layer, *, sparse=False, reentrant=None):
        super().__init__()
        self.stem, self.block = nn.Linear(48, 16), nn.Linear(16, 16)
        self.place = nn.Embedding(8, 16, sparse=sparse)
        self.head = norm(nn.Linear(16, 4))
        self.reentrant = reentrant

    def forward(self, x):
        x = self.stem(x.flatten(1)).relu() + self.place(torch.arange(len(x)) % 8)
        if self.reentrant is not None:
            return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))
        return self.head(self.block(x).relu())


def train(benchmark, model):
    torch.manual_seed(0)
    mist = MISTPlugin(tune_epochs=1, batch_size=8, lr=0.01, seed=0, verbose=False)
    host = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        train_mb_size=4,
        plugins=[mist],
        evaluator=None,
    )
    for experience in benchmark(shape=(3, 4, 4)).train_stream:
        host.train(experience)
    return mist


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_classifier_with_weight_norm_is_found_and_trains(norm, benchmark_of):
    model = Net(norm)
    assert find_classifier(model, torch.rand(1, 3, 4, 4)) == "head"
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mist = train(benchmark_of, model)
    assert not any(name.startswith("head") for name in mist.selection.masks)
    for name, p in model.named_parameters():
        if name.startswith("head"):
            assert (p != before[name]).any(), name
        else:
            mask = mist.selection.masks[name]
            assert torch.equal(p.detach()[~mask], before[name][~mask]), name


def test_an_embedding_with_sparse_gradients_is_as_one_with_dense_ones(benchmark_of):
    models = [Net(sparse=True), Net()]
    models[1].load_state_dict(models[0].state_dict())
    before = models[0].place.weight.detach().clone()
    masks = [train(benchmark_of, model).selection.masks["place.weight"] for model in models]
    assert torch.equal(*masks)
    assert torch.equal(models[0].place.weight.detach()[~masks[0]], before[~masks[0]])
    torch.testing.assert_close(models[0].place.weight, models[1].place.weight)
    assert (models[0].place.weight != before).any()


def test_reentrant_checkpointing_is_refused_with_the_fix(benchmark_of):
    with pytest.raises(ValueError, match=r"use_reentrant=False"):
        train(benchmark_of, Net(reentrant=True))
    train(benchmark_of, Net(reentrant=False))
