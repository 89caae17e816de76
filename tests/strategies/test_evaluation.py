import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.strategies import RanPAC, SimpleCIL


def counting(backbone):
    """How many images pass through it in evaluation mode."""
    passed = []
    backbone.register_forward_pre_hook(
        lambda module, inputs: None if module.training else passed.append(len(inputs[0]))
    )
    return passed


def build(strategy, backbone, **changes):
    metrics = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[])
    settings = {"n_random_features": 200} if strategy is RanPAC else {}
    return strategy(model=backbone, evaluator=metrics, **{**settings, **changes})


def run(strategy, benchmark):
    """All that is measured after each experience."""
    seen = []
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        metrics = strategy.eval(benchmark.test_stream[: t + 1])
        seen.append({k: v for k, v in metrics.items() if "eval_phase" in k})
    return seen


def test_every_test_image_passes_once_through_a_frozen_backbone(benchmark_of):
    benchmark, backbone = benchmark_of(n_classes=6, n_experiences=3), create_backbone()
    passed = counting(backbone)
    run(build(SimpleCIL, backbone), benchmark)
    assert sum(passed) == 48 + 48  # training and test images, each once


@pytest.mark.filterwarnings("ignore:The backbone was tuned after")
@pytest.mark.parametrize("strategy", [SimpleCIL, RanPAC])
@pytest.mark.parametrize("tune_on", [None, "first", "every"])
def test_the_cache_changes_no_number(benchmark_of, strategy, tune_on):
    benchmark = benchmark_of(n_classes=6, n_experiences=3)
    results = []
    for cache in (False, True):
        mist = MISTPlugin(tune_on=tune_on or "first", lr=0.05, tune_epochs=1, verbose=False, seed=0)
        plugins = [mist] if tune_on else []
        host = build(strategy, create_backbone(), plugins=plugins, cache=cache)
        results.append(run(host, benchmark))
    assert results[0] == results[1]


def test_nothing_cached_survives_a_change_of_weights_or_of_the_dataset(benchmark_of):
    benchmark, backbone = benchmark_of(), create_backbone()
    strategy = build(SimpleCIL, backbone)
    strategy.train(benchmark.train_stream)
    passed = counting(backbone)

    def images_in_eval(experiences):
        del passed[:]
        strategy.eval(experiences)
        return sum(passed)

    assert images_in_eval(benchmark.test_stream) == 32
    assert images_in_eval(benchmark.test_stream) == 0
    backbone.blocks[0].norm1.weight.data[0] += 1e-3
    assert images_in_eval(benchmark.test_stream) == 32
    first, experience = benchmark.test_stream
    experience.dataset = experience.dataset.replace_current_transform_group(lambda x: 1 - x)
    assert images_in_eval([first, experience]) == len(experience.dataset)


def test_without_a_cache_evaluation_takes_the_images_of_plugins_and_no_random_numbers(benchmark_of):
    class Half(SupervisedPlugin):
        def after_eval_dataset_adaptation(self, strategy, **kwargs):
            strategy.adapted_dataset = strategy.adapted_dataset.subset(range(4))

    class Count(SupervisedPlugin):
        seen = 0

        def after_eval_iteration(self, strategy, **kwargs):
            self.seen += len(strategy.mb_y)
            assert strategy.mb_x.shape == (len(strategy.mb_y), 96)  # features
            assert strategy.mb_output.shape == (len(strategy.mb_y), 4)

    benchmark, count = benchmark_of(), Count()
    strategy = build(SimpleCIL, create_backbone(), plugins=[Half(), count], cache=False)
    strategy.train(benchmark.train_stream)
    before = torch.get_rng_state()
    strategy.eval(benchmark.test_stream)
    assert torch.equal(before, torch.get_rng_state())
    assert count.seen == 8


def test_a_loaded_state_is_evaluated_without_training(benchmark_of):
    benchmark = benchmark_of()
    trained, loaded = (build(RanPAC, create_backbone()) for _ in range(2))
    trained.train(benchmark.train_stream)
    loaded.load_state_dict(trained.state_dict())
    found = trained.eval(benchmark.test_stream)
    assert loaded.eval(benchmark.test_stream).items() <= found.items()
    elsewhere = build(RanPAC, create_backbone(), device="meta")
    assert {t.device.type for t in elsewhere.model.state_dict().values()} == {"meta"}


def test_precision_and_compile_reach_the_backbone(benchmark_of, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    backbone, dtypes = create_backbone(), set()
    backbone.blocks[0].mlp.fc1.register_forward_hook(lambda *seen: dtypes.add(seen[2].dtype))
    strategy = build(SimpleCIL, backbone, precision="bf16", compile=True)
    run(strategy, benchmark_of())
    assert dtypes == {torch.bfloat16}
    assert compiled == [backbone]


def test_a_classifier_that_a_model_still_has_is_removed():
    backbone = tiny_vit(num_classes=10)
    with pytest.warns(UserWarning, match=r"still had its classifier, head.*SimpleCIL") as seen:
        strategy = build(SimpleCIL, backbone)
    assert [w.filename for w in seen if "classifier" in str(w.message)] == [__file__]
    assert strategy.backbone is backbone
    assert backbone(torch.rand(1, 3, 32, 32)).shape == (1, 96)
