"""An entry that is not selected never changes by a bit, whatever runs beside the plugin."""

import copy
import warnings

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.strategies import SimpleCIL


class Net(nn.Module):
    """A stem, a block, a branch that training alone takes, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Linear(48, 16), nn.Linear(16, 16)
        self.branch, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x.flatten(1)).relu()
        return self.head((self.block(x) + (self.branch(x) if self.training else 0)).relu())


class Plain(Net):
    """The same without the branch."""

    def __init__(self):
        super().__init__()
        del self.branch

    def forward(self, x):
        return self.head(self.block(self.stem(x.flatten(1)).relu()).relu())


def of(model, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model()


def sgd(parameters):
    return torch.optim.SGD(list(parameters), 0.1, momentum=0.9, weight_decay=0.01)


def host(model, plugins=(), strategy=Naive, **changes):
    mist = MISTPlugin(**{"tune_epochs": 0, "batch_size": 8, "seed": 0, "verbose": False, **changes})
    made = strategy(
        model=model,
        optimizer=sgd(model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=3,
        plugins=[mist, *plugins],
        evaluator=None,
    )
    return made, mist


def run(benchmark, model, plugins=(), strategy=Naive, **changes):
    """Two experiences, each trained and evaluated."""
    made, mist = host(model, plugins, strategy, **changes)
    for experience in benchmark.train_stream:
        made.train(experience)
        made.eval(benchmark.test_stream)
    return made.model, mist


def moved(model, initial, mist):
    """Names of parameters with an entry that has moved though it was not selected."""
    masks = mist.selection.masks
    now = dict(model.named_parameters())
    return [
        name
        for name, before in initial.items()
        if not name.startswith("head.")
        and not torch.equal(
            now[name].detach()[~masks[name]] if name in masks else now[name].detach(),
            before[~masks[name]] if name in masks else before,
        )
    ]


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture
def small(benchmark_of):
    return benchmark_of(shape=(3, 4, 4), n_experiences=2)


class Unfreeze(SupervisedPlugin):
    def before_training_epoch(self, strategy, **kwargs):
        if strategy.clock.train_exp_epochs == 1:
            strategy.model.block.requires_grad_(True)


def test_a_layer_unfrozen_while_training_stays(small):
    model = of(Plain)
    model.block.requires_grad_(False)
    initial = weights(model)
    made, mist = host(model, [Unfreeze()])
    with pytest.warns(UserWarning, match=r"block\.weight.*(was|were) not scored"):
        made.train(small.train_stream[0])
    assert moved(model, initial, mist) == []
    assert not torch.equal(model.stem.weight, initial["stem.weight"])


def test_a_backbone_frozen_for_the_start_of_a_later_experience_stays_sparse(small):
    model = of(Plain)
    initial = weights(model)

    class Thaw(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            strategy.model.requires_grad_(True)

        def after_training_exp(self, strategy, **kwargs):
            strategy.model.stem.requires_grad_(False)
            strategy.model.block.requires_grad_(False)

    _, mist = run(small, model, [Thaw()])
    assert moved(model, initial, mist) == []


class Replace(SupervisedPlugin):
    """Puts another model, or other Parameter objects, in place, and makes an optimizer of them."""

    def __init__(self, how, shift=0.0):
        super().__init__()
        self.how, self.shift = how, shift

    def before_training_epoch(self, strategy, **kwargs):
        if strategy.clock.train_exp_epochs != 1:
            return
        if self.how == "model":
            strategy.model = copy.deepcopy(strategy.model)
        else:
            block = strategy.model.block
            block.weight = nn.Parameter(block.weight.detach().clone() + self.shift)
        strategy.optimizer = sgd(strategy.model.parameters())


@pytest.mark.parametrize("how", ["model", "parameter"])
def test_another_model_or_parameter_is_followed(small, how):
    model = of(Plain)
    initial = weights(model)
    trained, mist = run(small, model, [Replace(how)])
    assert moved(trained, initial, mist) == []
    before, now = initial["block.weight"], trained.block.weight.detach()
    assert not torch.equal(now, before)  # selected entries go on moving


def test_another_parameter_with_other_values_is_put_right(small):
    model = of(Plain)
    initial = weights(model)
    made, mist = host(model, [Replace("parameter", shift=1e-3)])
    with pytest.warns(UserWarning, match=r"block\.weight.*put back"):
        made.train(small.train_stream[0])
    assert moved(model, initial, mist) == []


@pytest.mark.parametrize("name", ["block.1.weight", "block.bias", "head"])
def test_a_parameter_that_was_not_there_is_refused_by_name(small, name):
    class Exchange(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            block = strategy.model.block
            if name == "block.bias":  # of another shape
                block.bias = nn.Parameter(block.bias.detach()[None])
            elif name == "head":
                strategy.model = nn.Sequential(strategy.model)
            else:
                strategy.model.block = nn.Sequential(block, nn.Linear(16, 16))
            strategy.optimizer = sgd(strategy.model.parameters())

    made, _ = host(of(Plain), [Exchange()])
    with pytest.raises(ValueError, match=name):
        made.train(small.train_stream[0])


def test_after_an_experience_the_model_is_the_users(small):
    model = of(Plain)
    made, _ = host(model, score_on="every")
    made.train(small.train_stream[0])
    model.block = nn.Sequential(model.block, nn.Linear(16, 16))
    made.train(small.train_stream[1])
    model.double()
    made.eval([])


class TwoOptimizers(Naive):
    def optimizer_step(self):
        if not hasattr(self, "second"):
            self.second = torch.optim.AdamW(self.model.parameters(), 0.01, weight_decay=0.1)
        self.optimizer.step()
        self.second.step()


def test_a_second_optimizer_moves_no_more_than_the_first(small):
    model = of(Plain)
    initial = weights(model)
    _, mist = run(small, model, strategy=TwoOptimizers, drop_rate=0.5)
    assert moved(model, initial, mist) == []
    assert 0 < mist.updated_fraction <= mist.selection.fraction * 0.75


def test_a_branch_of_training_mode_stays(small):
    model = of(Net)
    initial = weights(model)
    made, mist = host(model)
    with pytest.warns(UserWarning, match=r"branch\.weight.*(was|were) not scored"):
        made.train(small.train_stream[0])
    assert "branch.weight" not in mist.selection.masks
    assert moved(model, initial, mist) == []


class Average(SupervisedPlugin):
    """Copies averaged weights back at the end of ``when``, past autograd or not."""

    def __init__(self, when, data):
        super().__init__()
        self.mean, self.data = None, data
        setattr(self, when, self.copy_back)

    def after_training_iteration(self, strategy, **kwargs):
        now = [p.detach().clone() for p in strategy.model.parameters()]
        mean = self.mean or now
        # as is usual, with a rounding that moves equal weights too
        self.mean = [0.9 * m + 0.1 * p for m, p in zip(mean, now, strict=True)]

    @torch.no_grad()
    def copy_back(self, strategy, **kwargs):
        for p, mean in zip(strategy.model.parameters(), self.mean, strict=True):
            (p.data if self.data else p).copy_(mean)


@pytest.mark.parametrize("when", ["after_training_epoch", "after_training_exp"])
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_averaged_weights_that_are_copied_back(small, when, data, first):
    model = of(Plain)
    initial = weights(model)
    made, mist = host(model)
    average = Average(when, data)
    made.plugins.insert(0 if first else 1, average)

    def train_and_evaluate():
        made.train(small.train_stream[0])
        made.eval(small.test_stream)

    with pytest.warns(UserWarning, match=r"(stem|block)\.weight.*put back"):
        train_and_evaluate()
    assert moved(model, initial, mist) == []
    mask = mist.selection.masks["stem.weight"]
    if when == "after_training_exp":  # what may move has the average
        assert torch.equal(model.stem.weight.detach()[mask], average.mean[0][mask])


def test_nothing_is_said_of_an_ordinary_run(small):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "MIST")
        run(small, of(Plain), score_on="every", protect_rate=0.01)


def test_a_plugin_belongs_to_one_strategy(small):
    model = of(Plain)
    made, mist = host(model)
    made.train(small.train_stream[0])
    again = copy.deepcopy(made)
    again.train(small.train_stream[1])  # a copy with all that belongs to it goes on
    other, _ = host(of(Plain))
    other.plugins[0] = mist
    with pytest.raises(ValueError, match=r"another strategy.*Make a new MISTPlugin"):
        other.train(small.train_stream[0])
    del made
    with pytest.raises(ValueError, match=r"another strategy"):
        SimpleCIL(model=of(Plain), plugins=[mist], evaluator=None).train(small.train_stream[0])
