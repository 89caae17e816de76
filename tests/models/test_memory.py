import pytest
import torch

from mist_avalanche.models.drift import AffineMap
from mist_avalanche.models.memory import FeatureMemory


@pytest.mark.parametrize("common", [0, 1000], ids=["", "large common part"])
def test_features_come_back_moved(common):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 5, generator=g) + common, torch.randint(4, (50,), generator=g)
    weight = torch.randn(5, 5, generator=g, dtype=torch.float64)
    drift = AffineMap(weight, torch.randn(5, generator=g, dtype=torch.float64))
    memory = FeatureMemory()
    for part in torch.arange(50).split(20):
        memory.add(x[part], y[part])
    assert memory.deviations.dtype == torch.float16
    torch.testing.assert_close(memory.recall()[0], x, atol=0.01, rtol=0)
    memory.move(drift)
    recalled, labels = memory.recall()
    assert torch.equal(labels, y)
    torch.testing.assert_close(recalled, drift(x), atol=0.05, rtol=0)
