import pytest
import torch
from torch.nn import functional as F

from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import SimpleCIL


def images_of(experiences):
    items = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


@torch.no_grad()
@pytest.mark.parametrize("train_mb_size", [1, 5, 64])
def test_cosines_to_the_means_of_frozen_features(train_mb_size, benchmark_of):
    benchmark = benchmark_of(n_classes=6, n_experiences=3)
    backbone = create_backbone().eval()
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    strategy = SimpleCIL(model=backbone, train_mb_size=train_mb_size, evaluator=None, eval_every=1)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[benchmark.test_stream])  # also of classes to come
    assert all(torch.equal(before[n], v) for n, v in backbone.state_dict().items())
    x, y = images_of(benchmark.train_stream)
    features = backbone(x)
    means = torch.stack([features[y == c].double().mean(0) for c in range(6)])
    torch.testing.assert_close(strategy.head.prototypes, means, atol=1e-5, rtol=0)
    expected = F.normalize(features) @ F.normalize(means.float()).T
    torch.testing.assert_close(strategy.model(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["train_epochs", "optimizer", "drift"])
def test_unknown_arguments_are_refused(name):
    with pytest.raises(TypeError, match=name):
        SimpleCIL(model=create_backbone(), **{name: 1})
