import pytest
import torch
from torch.nn import functional as F

from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import SimpleCIL


def images_of(experiences):
    items = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


@torch.no_grad()
def test_cosines_to_the_means_of_frozen_features(benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3)
    backbone = create_backbone().eval()
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    strategy = SimpleCIL(model=backbone, train_mb_size=5, evaluator=None)
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[: t + 1])
        strategy.eval(benchmark.test_stream)  # classes to come are no error
    assert all(torch.equal(before[n], v) for n, v in backbone.state_dict().items())
    x, y = images_of(benchmark.train_stream)
    features = backbone(x)
    means = torch.stack([features[y == c].double().mean(0) for c in range(6)])
    torch.testing.assert_close(strategy.head.prototypes, means, atol=1e-5, rtol=0)
    expected = F.normalize(features) @ F.normalize(means.float()).T
    torch.testing.assert_close(strategy.model(x), expected, atol=1e-5, rtol=0)


def test_batch_size_changes_nothing(benchmark_of):
    prototypes = []
    for size in (1, 7, 64):
        strategy = SimpleCIL(model=create_backbone(), train_mb_size=size, evaluator=None)
        strategy.train(benchmark_of().train_stream)
        prototypes.append(strategy.head.prototypes)
    # The head sums in float64; the backbone's float32 rounds differently in other batches.
    for others in prototypes[1:]:
        torch.testing.assert_close(others, prototypes[0], atol=1e-5, rtol=0)


def test_evaluation_needs_training_first(benchmark_of):
    benchmark = benchmark_of()
    strategy = SimpleCIL(model=create_backbone(), evaluator=None)
    with pytest.raises(RuntimeError, match="SimpleCIL has seen no class yet"):
        strategy.eval(benchmark.test_stream)
    strategy = SimpleCIL(model=create_backbone(), evaluator=None, eval_every=1)
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("train_epochs", "train_mb_size"), ("optimizer", ""), ("drift", "drift_compensation")],
)
def test_unknown_arguments_are_refused(name, nearest):
    with pytest.raises(TypeError, match=rf"SimpleCIL has no argument '{name}'. It has {nearest}"):
        SimpleCIL(model=create_backbone(), **{name: 1})
