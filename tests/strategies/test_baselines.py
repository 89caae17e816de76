import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin

from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.strategies.baselines import LR
from mist_avalanche.strategies.registry import STRATEGIES, arguments_of

BASELINES = [name for name, info in STRATEGIES.items() if info.is_baseline]


def built(name, plugins=(), **settings):
    return STRATEGIES[name].build(
        model=tiny_vit(),
        n_features=96,
        n_classes=4,
        image_size=32,
        device=torch.device("cpu"),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]),
        **settings,
    )


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "streaming_lda"])
def test_the_learning_rate_can_be_set(name):
    assert "lr" in arguments_of(STRATEGIES[name])
    assert built(name).optimizer.param_groups[0]["lr"] == LR
    assert built(name, lr=1e-4).optimizer.param_groups[0]["lr"] == 1e-4
    with pytest.raises(ValueError, match=r"Expected `lr` in \(0, inf\)"):
        built(name, lr=0)


@pytest.mark.parametrize("name", BASELINES)
def test_trains_and_evaluates_two_experiences(name, benchmark_of):
    changes = {"train_mb_size": 5, "eval_mb_size": 7}
    assert changes.keys() <= arguments_of(STRATEGIES[name]).keys()
    if "train_epochs" in arguments_of(STRATEGIES[name]):
        changes["train_epochs"] = 1
    strategy, benchmark = built(name, **changes), benchmark_of(per_class=4)
    assert (strategy.train_mb_size, strategy.eval_mb_size) == (5, 7)
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[: t + 1])
