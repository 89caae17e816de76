import warnings

import pytest
import timm
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from torchvision.transforms import RandomErasing

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL, _batches


def counting(backbone):
    """How many images pass through it in evaluation mode."""
    passed = []
    backbone.register_forward_pre_hook(
        lambda module, inputs: None if module.training else passed.append(len(inputs[0]))
    )
    return passed


def build(strategy, backbone, **changes):
    metrics = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[])
    return strategy(model=backbone, evaluator=metrics, **changes)


def run(strategy, benchmark):
    """All that is measured after each experience."""
    seen = []
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        metrics = strategy.eval(benchmark.test_stream[: t + 1])
        seen.append({k: v for k, v in metrics.items() if "eval_phase" in k})
    return seen


def test_every_test_image_passes_once_through_a_frozen_backbone(benchmark_of):
    benchmark = benchmark_of(n_classes=20, n_experiences=20, per_class=3)
    backbone = create_backbone()
    passed = counting(backbone)
    run(build(SimpleCIL, backbone), benchmark)
    n_train = sum(len(e.dataset) for e in benchmark.train_stream)
    n_test = sum(len(e.dataset) for e in benchmark.test_stream)
    assert sum(passed) == n_train + n_test == 120


def test_one_loader_for_a_whole_evaluation(benchmark_of, monkeypatch):
    made = []

    class Loader(_batches.OwnShare):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(len(self.dataset))

    monkeypatch.setattr(_batches, "OwnShare", Loader)
    benchmark = benchmark_of(n_classes=6, n_experiences=6)
    strategy = build(SimpleCIL, create_backbone())
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)
    strategy.eval(benchmark.test_stream)
    assert made == [48]


@pytest.mark.filterwarnings("ignore:The backbone has moved")
@pytest.mark.parametrize("strategy", [SimpleCIL, RanPAC])
@pytest.mark.parametrize("tune_on", [None, "first", "every"])
def test_the_cache_changes_no_number(benchmark_of, strategy, tune_on):
    benchmark = benchmark_of(n_classes=8, n_experiences=4)
    results = []
    for cache_mb in (0, 2000):
        mist = MISTPlugin(tune_on=tune_on or "first", lr=0.05, tune_epochs=1, verbose=False, seed=0)
        changes = {"n_random_features": 200} if strategy is RanPAC else {}
        host = build(
            strategy,
            create_backbone(),
            plugins=[mist] if tune_on else [],
            cache_mb=cache_mb,
            **changes,
        )
        results.append(run(host, benchmark))
    for plain, cached in zip(*results, strict=True):
        assert plain == pytest.approx(cached, abs=1e-4)


@pytest.mark.filterwarnings("ignore:The backbone has moved")
def test_nothing_survives_a_change_of_weights_or_of_the_transform(benchmark_of):
    benchmark = benchmark_of()
    backbone = create_backbone()
    passed = counting(backbone)
    strategy = build(SimpleCIL, backbone)
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)
    del passed[:]
    strategy.eval(benchmark.test_stream)
    assert not passed
    backbone.blocks[0].norm1.weight.data[0] += 1e-3  # behind autograd's back
    strategy.eval(benchmark.test_stream)
    assert sum(passed) == 32
    del passed[:]
    experience = benchmark.test_stream[1]
    experience.dataset = experience.dataset.replace_current_transform_group(lambda x: 1 - x)
    strategy.eval([benchmark.test_stream[0], experience])
    assert sum(passed) == len(experience.dataset) == 16


def test_a_plugin_may_put_in_another_dataset(benchmark_of):
    class Half(SupervisedPlugin):
        def after_eval_dataset_adaptation(self, strategy, **kwargs):
            strategy.adapted_dataset = strategy.adapted_dataset.subset(range(4))

    class Count(SupervisedPlugin):
        seen = 0

        def after_eval_iteration(self, strategy, **kwargs):
            self.seen += len(strategy.mb_y)
            assert strategy.mb_x.ndim == 4  # images
            assert strategy.mb_output.shape == (len(strategy.mb_y), 4)

    benchmark, count = benchmark_of(), Count()
    strategy = build(SimpleCIL, create_backbone(), plugins=[Half(), count])
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)
    assert count.seen == 8


def test_precision_and_compile_reach_the_backbone(benchmark_of, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda module: seen.append(module) or module)
    backbone = create_backbone()
    dtypes = set()
    backbone.blocks[0].mlp.fc1.register_forward_hook(lambda *seen: dtypes.add(seen[2].dtype))
    strategy = build(SimpleCIL, backbone, precision="bf16", compile=True)
    benchmark = benchmark_of()
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)
    assert dtypes == {torch.bfloat16}
    assert seen == [backbone]


@pytest.mark.parametrize("strategy", [SimpleCIL, RanPAC])
def test_a_model_that_still_has_its_classifier_gives_its_features(benchmark_of, strategy):
    def make(n_classes):
        torch.manual_seed(0)
        size = {"img_size": 32, "depth": 2}
        return timm.create_model("vit_tiny_patch16_224", num_classes=n_classes, **size)

    model, plain = make(1000), make(0)
    plain.load_state_dict(model.state_dict(), strict=False)
    changes = {"n_random_features": 50} if strategy is RanPAC else {}
    benchmark = benchmark_of()
    heads, masks = [], []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for backbone in (plain, model):
            mist = MISTPlugin(tune_epochs=1, verbose=False, seed=0, batch_size=8, tune_on="first")
            host = build(strategy, backbone, plugins=[mist], **changes)
            run(host, benchmark)
            heads.append(host.head.state_dict())
            masks.append(mist.selection.masks)
    (ours,) = [w for w in seen if "classifier" in str(w.message)]
    assert ours.filename == __file__
    assert "'head'" in str(ours.message)
    assert "num_classes=0" in str(ours.message)
    assert masks[0].keys() == masks[1].keys()
    for name, value in heads[0].items():
        assert torch.equal(value, heads[1][name]), name
    assert host.model.backbone is model


class Scale(torch.nn.Module):
    """Features times a number that is no part of the state."""

    def __init__(self):
        super().__init__()
        self.backbone = create_backbone()
        self.register_buffer("scale", torch.ones(96), persistent=False)
        self.act = torch.nn.Identity()

    def forward(self, x):
        return self.act(self.backbone(x) * self.scale)


class Shift:
    def __init__(self):
        self.by = 0.0

    def __call__(self, x):
        return x + self.by


def hooked(model, shift):
    model.register_forward_hook(lambda _m, _i, out: out.flip(1))


def hooked_before(model, shift):
    model.backbone.blocks[0].register_forward_pre_hook(lambda _m, inputs: (inputs[0].flip(1),))


def buffered(model, shift):
    model.scale[:48] = -1


def replaced(model, shift):
    model.act = torch.nn.Hardtanh(-0.1, 0.1)


def shifted(model, shift):
    shift.by = 0.5


@pytest.mark.filterwarnings("ignore:The backbone has moved")
@pytest.mark.parametrize("change", [hooked, hooked_before, buffered, replaced, shifted])
def test_features_are_those_of_the_model_and_transform_as_they_are(benchmark_of, change):
    """After a change in place, evaluation sees what an evaluation without a cache sees."""
    seen = []
    for cache_mb in (2000, 0):
        benchmark, model, shift = benchmark_of(), Scale(), Shift()
        experience = benchmark.test_stream[0]
        experience.dataset = experience.dataset.replace_current_transform_group(shift)
        strategy = build(SimpleCIL, model, cache_mb=cache_mb)
        strategy.train(benchmark.train_stream)
        log = []
        plugin = SupervisedPlugin()
        plugin.after_eval_forward = lambda host, log=log, **_: log.append(host.mb_output.clone())
        strategy.plugins.append(plugin)
        for _ in range(2):
            strategy.eval([experience])
        assert torch.equal(log[0], log[1])
        change(model, shift)
        strategy.eval([experience])
        assert not torch.equal(log[1], log[2])
        seen.append(log[2])
    torch.testing.assert_close(*seen, atol=1e-5, rtol=0)


def test_random_transforms_are_drawn_at_every_evaluation(benchmark_of):
    benchmark, backbone = benchmark_of(), create_backbone()
    first, second = benchmark.test_stream
    rarely = RandomErasing(p=0.05)
    first.dataset = first.dataset.replace_current_transform_group(rarely)
    passed = counting(backbone)
    strategy = build(SimpleCIL, backbone)
    strategy.train(benchmark.train_stream)
    for _ in range(3):
        del passed[:]
        torch.manual_seed(0)
        strategy.eval([first, second])
    assert sum(passed) == 16  # of `first`; those of `second` are kept
