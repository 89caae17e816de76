"""What is stored of earlier classes, and a backbone that moves or does not."""

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from tiny_runs import MIST, tiny_benchmark

from mist_avalanche import MISTPlugin
from mist_avalanche.cli import command as cli
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL

BOTH = pytest.mark.parametrize("strategy_class", [SimpleCIL, RanPAC])
SMALL = {SimpleCIL: {}, RanPAC: {"n_random_features": 50}}


def made(strategy_class, plugins=(), **changes):
    settings = {**SMALL[strategy_class], **changes}
    return strategy_class(
        model=create_backbone(), plugins=list(plugins), evaluator=None, **settings
    )


def mist(**changes):
    return MISTPlugin(**{"tune_epochs": 1, "lr": 0.05, "seed": 0, "verbose": False, **changes})


def count_passes(strategy):
    """Images that pass through the backbone, in a list of batch sizes."""
    seen = []
    strategy.model.backbone.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    return seen


@BOTH
def test_stored_classes_left_behind_are_mentioned_once(strategy_class, benchmark_of):
    stream = benchmark_of(n_classes=6, n_experiences=3).train_stream
    strategy = made(strategy_class, [mist()])
    strategy.train(stream[0])
    with pytest.warns(UserWarning, match=r"tune_on='first'.*drift_compensation=True"):
        strategy.train(stream[1])
    strategy.train(stream[2])  # a second warning would be an error


@BOTH
def test_a_backbone_that_moves_between_experiences_is_noticed(strategy_class, benchmark_of):
    stream = benchmark_of().train_stream
    for compensate in (False, True):
        strategy = made(strategy_class, drift_compensation=compensate)
        strategy.train(stream[0])
        with torch.no_grad():
            next(strategy.model.backbone.parameters()).add_(0.1)
        with pytest.warns(UserWarning, match="stay where they were"):
            strategy.train(stream[1])


@BOTH
@pytest.mark.parametrize(("tune_on", "compensate"), [("first", False), ("every", True)])
def test_nothing_is_said_where_nothing_is_left_behind(
    strategy_class, tune_on, compensate, benchmark_of
):
    strategy = made(strategy_class, [mist(tune_on=tune_on)], drift_compensation=compensate)
    for experience in benchmark_of(n_classes=6, n_experiences=3).train_stream:
        strategy.train(experience)


@BOTH
@pytest.mark.parametrize("plugins", [[], [{"tune_on": "first"}], [{"later_epochs": 0}]])
def test_compensation_of_nothing_is_mentioned_and_costs_nothing(
    strategy_class, plugins, benchmark_of
):
    stream = benchmark_of(n_classes=6, n_experiences=3).train_stream
    strategy = made(strategy_class, [mist(**p) for p in plugins], drift_compensation=True)
    strategy.train(stream[0])
    seen = count_passes(strategy)
    with pytest.warns(UserWarning, match="`drift_compensation` has no effect"):
        strategy.train(stream[1])
    strategy.train(stream[2])
    images = len(stream[1].dataset) + len(stream[2].dataset)
    looked_at = sum(len(x) == 1 for x in seen)  # one image an experience finds the classifier
    assert sum(map(len, seen)) == images + looked_at
    assert looked_at <= 2


def test_a_run_of_the_command_says_so(tmp_path):
    """As it does by default with every backbone but the embedded one."""
    settings = {**MIST, "tune_on": "every", "lr": 0.05}
    arguments = [f"--mist-arg={name}={value}" for name, value in settings.items()]
    command = ["run", "--strategy", "simplecil", "--mist", *arguments, "--quiet"]
    said = r"--mist-arg tune_on=first.*--drift-compensation"
    with tiny_benchmark(), pytest.warns(UserWarning, match=said):
        assert cli.main([*command, "--output", str(tmp_path)]) == 0


class Statistics(SupervisedPlugin):
    """Moves a buffer alone, as BatchNorm does."""

    def before_training_exp(self, strategy, **kwargs):
        strategy.model.backbone.running.add_(1)


@BOTH
def test_compensation_follows_a_buffer(strategy_class, benchmark_of):
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = create_backbone()
            self.register_buffer("running", torch.zeros(96))

        def forward(self, x):
            return self.inner(x) + self.running

    strategy = strategy_class(
        model=Shifted(),
        plugins=[Statistics()],
        evaluator=None,
        drift_compensation=True,
        **SMALL[strategy_class],
    )
    stream = benchmark_of().train_stream
    strategy.train(stream[0])
    strategy.train(stream[1])
    assert strategy.model.backbone.running[0] == 2
    if strategy_class is SimpleCIL:
        x = torch.stack([x for x, *_ in stream[0].dataset.eval()])
        labels = torch.tensor([y for _, y, *_ in stream[0].dataset.eval()])
        with torch.no_grad():
            now = strategy.model.backbone.eval()(x)
        for c in labels.unique().tolist():
            mean = now[labels == c].double().mean(0)
            torch.testing.assert_close(strategy.head.prototypes[c], mean, atol=1e-3, rtol=1e-3)
