import pytest
import torch

from mist_avalanche.models.drift import AffineMap
from mist_avalanche.models.memory import FeatureMemory, GaussianMemory

WIDTH = 5


def data(n=4000, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=g)
    mix = torch.randn(WIDTH, WIDTH, generator=g)
    means = 3 * torch.randn(4, WIDTH, generator=g)
    return means[labels] + torch.randn(n, WIDTH, generator=g) @ mix, labels


def drift():
    g = torch.Generator().manual_seed(9)
    weight = torch.randn(WIDTH, WIDTH, generator=g, dtype=torch.float64)
    return AffineMap(weight, torch.randn(WIDTH, generator=g, dtype=torch.float64))


def test_features_come_back_moved():
    x, y = data(50)
    memory = FeatureMemory()
    for part in torch.arange(50).split(20):
        memory.add(x[part], y[part])
    assert memory.deviations.dtype == torch.float16
    memory.move(drift())
    recalled, labels = memory.recall()
    assert torch.equal(labels, y)
    torch.testing.assert_close(recalled, drift()(x), atol=0.05, rtol=0.01)
    other = FeatureMemory()
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.recall()[0], recalled)


def test_features_beyond_float16_are_refused():
    with pytest.raises(FloatingPointError, match="gaussians"):
        FeatureMemory().add(torch.tensor([[1e6], [0.0]]), torch.tensor([0, 1]))


def test_a_large_common_part_costs_no_digits():
    x, y = data(50)
    memory = FeatureMemory()
    memory.add(x + 1000, y)
    torch.testing.assert_close(memory.recall()[0], x + 1000, atol=0.01, rtol=0)


def test_gaussians_have_the_moments_of_the_data_however_added():
    x, y = data()
    memory = GaussianMemory()
    for part in torch.arange(len(y)).split(999):
        memory.add(x[part], y[part])
    whole = GaussianMemory()
    whole.add(x, y)
    torch.testing.assert_close(memory.scatter, whole.scatter)
    memory.move(drift())
    recalled, labels = memory.recall()
    moved = drift()(x)
    assert torch.equal(labels.bincount(), y.bincount())
    for c in range(4):
        a, b = recalled[labels == c], moved[y == c]
        spread = b.std(0)
        assert ((a.mean(0) - b.mean(0)).abs() / spread).max() < 0.2
        torch.testing.assert_close(
            torch.cov(a.T), torch.cov(b.T), atol=float(spread.max()), rtol=0.3
        )


def test_gaussians_of_a_state_draw_the_same():
    memory, other = GaussianMemory(1), GaussianMemory(1)
    memory.add(*data(40))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.recall()[0], memory.recall()[0])


def test_single_images_have_no_spread():
    memory = GaussianMemory()
    memory.add(torch.eye(3), torch.arange(3))
    torch.testing.assert_close(memory.recall()[0], torch.eye(3))
