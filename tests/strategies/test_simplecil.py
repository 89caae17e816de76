import pytest
import torch
from torch.nn import functional as F

from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import SimpleCIL


def images_of(experience):
    items = list(experience.dataset.eval())
    return torch.stack([x for x, *_ in items]), torch.tensor([y for _, y, *_ in items])


def test_prototypes_are_means_of_frozen_features_and_accuracy_follows(benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3)
    backbone = create_backbone().eval()
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    strategy = SimpleCIL(model=backbone, train_mb_size=5, evaluator=None)
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[: t + 1])
        strategy.eval(benchmark.test_stream)  # classes to come are no error
    assert all(torch.equal(before[n], v) for n, v in backbone.state_dict().items())
    parts = [images_of(e) for e in benchmark.train_stream]
    x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    with torch.no_grad():
        features = backbone(x)
    for c in range(6):
        mean = features[y == c].double().mean(0)
        torch.testing.assert_close(strategy.head.prototypes[c], mean, atol=1e-5, rtol=0)
    logits = strategy.model(x)
    expected = F.normalize(features) @ F.normalize(strategy.head.prototypes.float()).T
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_batch_size_changes_nothing(benchmark_of):
    heads = []
    for size in (1, 7, 64):
        strategy = SimpleCIL(model=create_backbone(), train_mb_size=size, evaluator=None)
        strategy.train(benchmark_of().train_stream)
        heads.append(strategy.head.prototypes)
    # The head sums in float64; the backbone's float32 rounds differently in other batches.
    torch.testing.assert_close(heads[0], heads[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(heads[0], heads[2], atol=1e-5, rtol=0)


def test_eval_before_training_is_explained_and_eval_every_works(benchmark_of):
    benchmark = benchmark_of()
    strategy = SimpleCIL(model=create_backbone(), evaluator=None)
    with pytest.raises(RuntimeError, match="seen no class yet"):
        strategy.eval(benchmark.test_stream)
    strategy = SimpleCIL(model=create_backbone(), evaluator=None, eval_every=1)
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
