import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_avalanche.method.objective import SupervisedInfoNCE, normalize_rows, supervised_info_nce


def naive(z, labels, temperature):
    """The definition, row by row."""
    y = labels.tolist() * 2
    n = len(y)
    total = 0.0
    for r in range(n):
        s = [float(z[r] @ z[k]) for k in range(n)]
        e = [0.0 if k == r else math.exp((s[k] - max(s)) / temperature) for k in range(n)]
        nll = [-math.log(e[k] / (sum(e) + 1e-8) + 1e-8) for k in range(n)]
        same = [k for k in range(n) if y[k] == y[r]]
        total += nll[(r + n // 2) % n] + 2 * sum(nll[k] for k in same) / len(same)
    return total / n


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(2, 7),
    width=st.integers(2, 9),
    classes=st.integers(1, 4),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 10**6),
)
def test_equals_the_definition(batch, width, classes, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    z = normalize_rows(torch.randn(2 * batch, width, generator=generator, dtype=torch.float64))
    labels = torch.randint(classes, (batch,), generator=generator)
    loss = supervised_info_nce(z, labels, temperature)
    assert loss.item() == pytest.approx(naive(z, labels, temperature), rel=1e-9)


def test_identical_embeddings_have_a_closed_form():
    # All 2B rows equal: every ratio is 1 / (2B - 1); the diagonal's is 0.
    b = 5
    z = torch.zeros(2 * b, 3, dtype=torch.float64)
    z[:, 0] = 1
    pair = -math.log(1 / (2 * b - 1 + 1e-8) + 1e-8)
    labels = torch.arange(b)
    expected = pair + 2 * (pair - math.log(1e-8)) / 2
    assert supervised_info_nce(z, labels).item() == pytest.approx(expected, rel=1e-9)


def test_order_of_images_does_not_matter():
    z = normalize_rows(torch.randn(12, 8, dtype=torch.float64))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    both = torch.cat([order, order + 6])
    torch.testing.assert_close(
        supervised_info_nce(z, labels), supervised_info_nce(z[both], labels[order])
    )


def test_half_precision_is_computed_in_float32():
    z = torch.randn(8, 16).half()
    assert SupervisedInfoNCE()(z, torch.tensor([0, 0, 1, 1])).dtype == torch.float32


def test_explains_wrong_shapes_and_temperature():
    with pytest.raises(ValueError, match=r"\(2B, P\).*got \(5, 3\) and \(3,\)"):
        supervised_info_nce(torch.ones(5, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="`temperature` > 0, got 0"):
        SupervisedInfoNCE(0)
