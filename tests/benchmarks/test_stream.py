import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_avalanche.benchmarks.stream import class_order, experience_sizes


@given(n=st.integers(1, 300), experiences=st.integers(1, 300))
def test_no_class_is_lost(n, experiences):
    if experiences > n:
        with pytest.raises(ValueError, match=f"number of classes, {n}"):
            experience_sizes(n, experiences)
        return
    sizes = experience_sizes(n, experiences)
    assert sum(sizes) == n
    assert len(sizes) == experiences
    assert min(sizes) >= 1


def test_published_sizes_and_orders():
    assert experience_sizes(196, 10) == [20] * 9 + [16]
    assert experience_sizes(100, 30) == [4] * 10 + [3] * 20
    assert class_order(100)[:5] == [68, 56, 78, 8, 23]
    assert class_order(196)[:5] == [59, 134, 162, 9, 42]
    assert class_order(200)[:5] == [168, 136, 51, 9, 183]
    assert class_order(4, shuffle=False) == [0, 1, 2, 3]
    assert class_order(3, fixed=[2, 0, 1]) == [2, 0, 1]
    with pytest.raises(ValueError, match=r"each of the 3 classes.*3 entries, 2 different"):
        class_order(3, fixed=[2, 0, 0])
