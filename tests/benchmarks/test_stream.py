import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_avalanche import benchmarks
from mist_avalanche.benchmarks.stream import class_incremental, class_order, experience_sizes


class Numbers:
    """Items (class id, class id)."""

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.targets[index], self.targets[index]


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


@given(order=st.permutations(range(5)), n_experiences=st.integers(1, 5))
def test_labels_are_by_order_of_appearance(order, n_experiences):
    data = Numbers([*range(5)] * 3)
    names = ["a", "b", "c", "d", "e"]
    benchmark = class_incremental(
        data, data, n_experiences, class_names=names, fixed_class_order=order
    )
    items = [(x, label) for e in benchmark.train_stream for x, label, _ in e.dataset]
    assert sorted(items) == sorted([(c, order.index(c)) for c in order] * 3)
    assert benchmark.class_names == [names[c] for c in order]
    sizes = [len(e.classes_in_this_experience) for e in benchmark.train_stream]
    assert sizes == experience_sizes(5, n_experiences)


def test_names_of_the_command():
    expected = {name for name in benchmarks.__all__ if name.startswith("Split")}
    by_value = {id(value): name for name, value in vars(benchmarks).items()}
    assert {by_value[id(f)] for f in benchmarks.BENCHMARKS.values()} == expected
