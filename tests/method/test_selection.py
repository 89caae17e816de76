import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_avalanche.method.selection import rate_within_budget, select, top_entries


@given(n=st.integers(1, 200), rate=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_top_entries_is_the_quantile(n, rate, seed):
    scores = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    mask = top_entries(scores, rate)
    assert int(mask.sum()) == (n if rate == 1 else math.floor(rate * (n - 1) + 1e-9) + 1)
    if not mask.all():
        assert scores[mask].min() >= scores[~mask].max()


def test_equal_scores_and_zero_scores_select_no_more():
    assert top_entries(torch.ones(100), 0.1).sum() == math.floor(0.1 * 99) + 1
    assert top_entries(torch.zeros(100), 0.1).sum() == 0
    assert top_entries(torch.zeros(100), 1.0).all()
    assert top_entries(torch.tensor([0.0, 3.0, 1.0]), 0.0).tolist() == [False, True, False]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    n_always=st.integers(0, 4),
    rate=st.floats(0.001, 0.999),
    seed=st.integers(0, 10**6),
)
def test_budget_is_never_exceeded(sizes, n_always, rate, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.rand(n, generator=generator) for i, n in enumerate(sizes)}
    chosen = select(scores, rate, [str(i) for i in range(n_always)])
    assert chosen.selected <= rate * chosen.total
    for name in chosen.always:
        assert chosen.masks[name].all()


def test_budget_is_used():
    scores = {"w": torch.rand(1000, 100), "v": torch.rand(300, 100), "b": torch.rand(500)}
    chosen = select(scores, 0.05, {"b"})
    assert 0.0499 < chosen.fraction <= 0.05
    assert chosen.always == {"b"}
    assert rate_within_budget({"w": 1000, "b": 500}, {"b"}, 0.05) < 0


def test_everything():
    scores = {"a": torch.zeros(3, 4), "b": torch.rand(5)}
    assert select(scores, 1.0, {"b"}).fraction == 1.0


def test_table_and_rows_add_up():
    chosen = select(
        {"layer.weight": torch.rand(40, 50), "layer.bias": torch.rand(40)}, 0.1, {"layer.bias"}
    )
    assert sum(row.selected for row in chosen.rows()) == chosen.selected
    text = chosen.table()
    assert "layer.bias" in text
    assert "always" in text
    assert text.splitlines()[-1].split()[1] == str(chosen.selected)


def test_reference_rate_is_per_tensor_with_always_on_top():
    scores = {"w": torch.rand(30, 40), "b": torch.rand(40)}
    chosen = select(scores, 0.1, {"b"}, within_budget=False)
    assert chosen.masks["b"].all()
    assert int(chosen.masks["w"].sum()) == pytest.approx(0.1 * 1200, abs=1)


def test_global_ranking_takes_the_highest_scores_of_all_tensors():
    generator = torch.Generator().manual_seed(0)
    scores = {
        "high": torch.rand(40, 50, generator=generator) + 1,
        "low": torch.rand(60, 50, generator=generator),
        "bias": torch.rand(50, generator=generator),
    }
    per_tensor = select(scores, 0.05, ["bias"])
    chosen = select(scores, 0.05, ["bias"], ranking="global")
    assert chosen.masks["bias"].all()
    assert chosen.fraction <= 0.05
    assert abs(chosen.selected - per_tensor.selected) <= len(scores)
    assert not chosen.masks["low"].any()
    rest = scores["high"][~chosen.masks["high"]]
    assert scores["high"][chosen.masks["high"]].min() >= rest.max()
    assert select(scores, 1.0, ranking="global").fraction == 1
