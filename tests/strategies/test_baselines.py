import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from tiny_runs import tiny_benchmark

from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.runs import RunConfig, run
from mist_avalanche.strategies.baselines import BASELINES, LR, build_baseline
from mist_avalanche.strategies.registry import arguments_of, check_strategy


def built(name, **settings):
    common = {"image_size": 16, "plugins": [], "device": torch.device("cpu")}
    evaluator = EvaluationPlugin(loggers=[])
    return build_baseline(name, tiny_vit(), 16, 6, evaluator=evaluator, **common, **settings)


@pytest.mark.parametrize("name", [*BASELINES])
def test_the_learning_rate_is_set(name):
    if name == "streaming_lda":
        assert "lr" not in arguments_of(name)
        with pytest.raises(ValueError, match="'streaming_lda' has no argument 'lr'"):
            check_strategy(name, ["lr"])
        return
    check_strategy(name, ["lr"])
    assert built(name).optimizer.param_groups[0]["lr"] == LR
    assert built(name, lr=1e-4).optimizer.param_groups[0]["lr"] == 1e-4
    with pytest.raises(ValueError, match=r"Expected `lr` in \(0, inf\)"):
        built(name, lr=0)


def test_a_run_uses_it(tmp_path):
    args = {"train_epochs": 1, "lr": 1e-9}
    config = RunConfig(experiences=3, strategy="naive", strategy_args=args)
    with tiny_benchmark():
        results = run(config, tmp_path, progress=False)
    assert results["config"]["strategy_args"] == args
    assert results["parameters"]["updated"] < 0.5 * results["parameters"]["total"]
