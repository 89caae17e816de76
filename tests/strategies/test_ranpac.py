import pytest
import torch
from avalanche.training.plugins import ReplayPlugin

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.models.ridge import RIDGES
from mist_avalanche.strategies import RanPAC, SimpleCIL

M = 200


def features_of(backbone, experiences):
    images = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
    with torch.no_grad():
        features = backbone.eval()(torch.stack([x for x, _ in images]))
    return features, torch.tensor([y for _, y in images])


def test_statistics_and_logits_over_experiences(benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3)
    strategy = RanPAC(model=create_backbone(), n_random_features=M, train_mb_size=5, evaluator=None)
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[: t + 1])
        assert strategy.head.counts.tolist() == [8] * (2 * t + 2)
    features, labels = features_of(strategy.model.backbone, benchmark.train_stream)
    head = strategy.head
    h = (features @ head.projection).relu().double()
    y = torch.nn.functional.one_hot(labels).double()
    torch.testing.assert_close(head.gram, h.T @ h, rtol=1e-4, atol=1e-2)
    assert float(head.ridge) in RIDGES
    torch.testing.assert_close(head.cross.double(), h.T @ y, rtol=1e-4, atol=1e-2)
    ridge = head.ridge * torch.eye(M).double()
    solution = torch.linalg.solve(head.gram.double() + ridge, head.cross.double())
    test, _ = features_of(strategy.model.backbone, benchmark.test_stream)
    expected = (test @ head.projection).relu().double() @ solution
    torch.testing.assert_close(head(test).double(), expected, atol=1e-3, rtol=0)


def test_metrics_see_a_fitted_head(benchmark_of):
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin

    for strategy_class, settings in ((RanPAC, {"n_random_features": M}), (SimpleCIL, {})):
        evaluator = EvaluationPlugin(accuracy_metrics(epoch=True), loggers=[])
        strategy = strategy_class(model=create_backbone(), evaluator=evaluator, **settings)
        results = strategy.train(benchmark_of().train_stream[1])
        assert results["Top1_Acc_Epoch/train_phase/train_stream/Task000"] > 0.9


STRATEGIES = pytest.mark.parametrize(
    ("strategy_class", "settings"),
    [
        (SimpleCIL, {}),
        (RanPAC, {"n_random_features": M, "memory": "features"}),
        (RanPAC, {"n_random_features": M, "memory": "gaussians"}),
        (RanPAC, {"n_random_features": 0, "memory": "none"}),
    ],
    ids=["simplecil", "features", "gaussians", "none"],
)


def trained(strategy_class, settings, benchmark, plugins, *, compensate):
    strategy = strategy_class(
        model=create_backbone(),
        plugins=plugins,
        drift_compensation=compensate,
        evaluator=None,
        **{k: v for k, v in settings.items() if compensate or k != "memory"},
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return strategy


@pytest.mark.filterwarnings("ignore:`drift_compensation` has no effect")
@STRATEGIES
def test_compensation_without_later_tuning_changes_no_bit(strategy_class, settings, benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3, per_class=4)
    logits = []
    for compensate in (False, True):
        mist = MISTPlugin(tune_on="first", tune_epochs=1, seed=0, verbose=False)
        strategy = trained(strategy_class, settings, benchmark, [mist], compensate=compensate)
        features, _ = features_of(strategy.model.backbone, benchmark.test_stream)
        logits.append(strategy.head(features))
    assert torch.equal(*logits)


@pytest.mark.filterwarnings("ignore:The backbone has moved")
@STRATEGIES
def test_compensation_brings_stored_classes_nearer_to_their_images(
    strategy_class, settings, benchmark_of
):
    benchmark = benchmark_of(n_classes=4, n_experiences=2, per_class=24)

    def distance(*, compensate):
        """Class means as stored, from those that the images of the first experience now have."""
        mist = MISTPlugin(
            tune_epochs=3, lr=0.05, select_rate=1.0, drop_rate=0.0, seed=0, verbose=False
        )
        strategy = trained(strategy_class, settings, benchmark, [mist], compensate=compensate)
        features, labels = features_of(strategy.model.backbone, benchmark.train_stream[:1])
        head = strategy.head
        if isinstance(strategy, SimpleCIL):
            kept = head.prototypes
        else:
            kept, features = head.cross.T / head.counts.unsqueeze(1), head.expand(features)
        now = torch.stack([features[labels == c].mean(0) for c in range(2)])
        return (kept[:2] - now).norm()

    assert distance(compensate=True) < 0.8 * distance(compensate=False)


def test_compensation_beside_a_plugin_that_changes_the_data(benchmark_of):
    mist = MISTPlugin(tune_epochs=1, lr=0.05, seed=0, batch_size=8, verbose=False)
    plugins = [mist, ReplayPlugin(mem_size=4)]
    strategy = trained(RanPAC, {"n_random_features": M}, benchmark_of(), plugins, compensate=True)
    assert strategy.head.counts.tolist() == [8] * 4


def test_wrong_arguments():
    with pytest.raises(ValueError, match="nothing to move with memory='none'"):
        RanPAC(model=create_backbone(), drift_compensation=True, memory="none")
    with pytest.raises(ValueError, match="`memory` to be 'features'"):
        RanPAC(model=create_backbone(), memory="pixels")
    with pytest.raises(ValueError, match="`n_random_features` of at least 0"):
        RanPAC(model=create_backbone(), n_random_features=-1)
    with pytest.raises(ValueError, match="`dtype` to be 'float64' or 'float32', got 'float16'"):
        RanPAC(model=create_backbone(), dtype="float16")


def test_eval_before_training_is_explained(benchmark_of):
    strategy = RanPAC(model=create_backbone(), n_random_features=M, evaluator=None)
    with pytest.raises(RuntimeError, match="RanPAC has seen no class yet"):
        strategy.eval(benchmark_of().test_stream)
