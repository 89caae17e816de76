import pytest
import torch

from mist_avalanche.models.drift import AffineMap
from mist_avalanche.models.memory import FeatureMemory


def data():
    g = torch.Generator().manual_seed(0)
    return torch.randn(50, 5, generator=g), torch.randint(4, (50,), generator=g)


def drift(scale=1.0):
    g = torch.Generator().manual_seed(9)
    weight = scale * torch.randn(5, 5, generator=g, dtype=torch.float64)
    return AffineMap(weight, torch.randn(5, generator=g, dtype=torch.float64))


def test_features_come_back_moved():
    x, y = data()
    memory = FeatureMemory()
    for part in torch.arange(50).split(20):
        memory.add(x[part], y[part])
    assert memory.deviations.dtype == torch.float16
    memory.move(drift())
    recalled, labels = memory.recall()
    assert torch.equal(labels, y)
    torch.testing.assert_close(recalled, drift()(x), atol=0.05, rtol=0.01)


def test_a_large_common_part_costs_no_digits():
    x, y = data()
    memory = FeatureMemory()
    memory.add(x + 1000, y)
    torch.testing.assert_close(memory.recall()[0], x + 1000, atol=0.01, rtol=0)


def test_a_feature_beyond_float16_changes_nothing():
    memory = FeatureMemory()
    memory.add(*data())
    before = {name: t.clone() for name, t in memory.state_dict().items()}
    with pytest.raises(FloatingPointError, match="float16"):
        memory.add(torch.full((1, 5), 1e6), torch.tensor([0]))
    with pytest.raises(FloatingPointError, match="float16"):
        memory.move(drift(1e6))
    assert all(torch.equal(t, before[name]) for name, t in memory.state_dict().items())
