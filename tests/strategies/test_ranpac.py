import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from test_simplecil import images_of

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.models.ridge import RIDGES
from mist_avalanche.strategies import RanPAC, SimpleCIL

M = 200
SETTINGS = pytest.mark.parametrize(
    ("strategy_class", "settings"),
    [(SimpleCIL, {}), (RanPAC, {"n_random_features": M}), (RanPAC, {"n_random_features": 0})],
    ids=["simplecil", "ranpac", "no projection"],
)


def features_of(backbone, experiences):
    x, y = images_of(experiences)
    with torch.no_grad():
        return backbone.eval()(x), y


def trained(strategy_class, stream, *plugins, **settings):
    strategy = strategy_class(
        model=create_backbone(), plugins=list(plugins), evaluator=None, **settings
    )
    strategy.train(stream)
    return strategy


def test_ridge_regression_over_all_experiences(benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3)
    strategy = trained(RanPAC, benchmark.train_stream, n_random_features=M, train_mb_size=5)
    head = strategy.head
    assert head.counts.tolist() == [8] * 6
    features, labels = features_of(strategy.backbone, benchmark.train_stream)
    h = (features @ head.projection).relu().double()
    y = torch.nn.functional.one_hot(labels).double()
    torch.testing.assert_close(head.gram, h.T @ h, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(head.cross, h.T @ y, rtol=1e-4, atol=1e-2)
    assert float(head.ridge) in RIDGES
    solution = torch.linalg.solve(head.gram + head.ridge * torch.eye(M), head.cross)
    test, _ = features_of(strategy.backbone, benchmark.test_stream)
    expected = (test @ head.projection).relu().double() @ solution
    torch.testing.assert_close(head(test).double(), expected, atol=1e-3, rtol=0)


@SETTINGS
def test_metrics_of_training_see_a_fitted_head(strategy_class, settings, benchmark_of):
    evaluator = EvaluationPlugin(accuracy_metrics(epoch=True), loggers=[])
    strategy = strategy_class(model=create_backbone(), evaluator=evaluator, **settings)
    results = strategy.train(benchmark_of().train_stream[1])
    assert results["Top1_Acc_Epoch/train_phase/train_stream/Task000"] > 0.9


@SETTINGS
def test_compensation_without_later_tuning_changes_no_bit(strategy_class, settings, benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3, per_class=4)
    logits = []
    for compensate in (False, True):
        mist = MISTPlugin(tune_on="first", tune_epochs=1, seed=0, verbose=False)
        settings["drift_compensation"] = compensate
        strategy = trained(strategy_class, benchmark.train_stream, mist, **settings)
        logits.append(strategy.head(features_of(strategy.backbone, benchmark.test_stream)[0]))
    assert torch.equal(*logits)


@pytest.mark.filterwarnings("ignore:The backbone was tuned after")
@SETTINGS
def test_compensation_brings_stored_classes_nearer_to_their_images(
    strategy_class, settings, benchmark_of
):
    """Class means as stored, against those that the images of the first experience now have."""
    stream, distances = benchmark_of(per_class=12).train_stream, []
    for compensate in (True, False):
        mist = MISTPlugin(
            tune_epochs=3, lr=0.05, select_rate=1.0, drop_rate=0.0, seed=0, verbose=False
        )
        settings["drift_compensation"] = compensate
        strategy = trained(strategy_class, stream, mist, **settings)
        features, labels = features_of(strategy.backbone, stream[:1])
        head = strategy.head
        if isinstance(strategy, SimpleCIL):
            stored = head.prototypes
        else:
            stored, features = head.cross.T / head.counts.unsqueeze(1), head.expand(features)
        now = torch.stack([features[labels == c].mean(0) for c in range(2)])
        distances.append((stored[:2] - now).norm())
    assert distances[0] < 0.8 * distances[1]


def test_images_that_a_plugin_replays_are_not_counted_again(benchmark_of):
    mist = MISTPlugin(tune_epochs=1, lr=0.05, seed=0, batch_size=8, verbose=False)
    settings = {"n_random_features": M, "drift_compensation": True}
    replay = ReplayPlugin(mem_size=4)
    strategy = trained(RanPAC, benchmark_of().train_stream, mist, replay, **settings)
    assert strategy.head.counts.tolist() == [8] * 4
    assert len(strategy.head.memory.labels) == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_random_features": -1}, "`n_random_features` of at least 0"),
        ({"precision": "16"}, "`precision` to be '32' or 'bf16'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RanPAC(model=create_backbone(), **arguments)
