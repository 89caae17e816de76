"""Metrics against closed forms and naive loops."""

import pytest

from mist_avalanche.runs.metrics import accuracy_rows, summarize


def test_by_hand():
    # 10, 20 and 10 test images; correct after each experience
    correct, counts = [[8], [5, 20], [6, 10, 9]], [10, 20, 10]
    metrics = summarize(correct, counts)
    assert metrics["A_T"] == pytest.approx(100 * 25 / 40)
    assert metrics["A_bar"] == pytest.approx(100 * (0.8 + 25 / 30 + 25 / 40) / 3)
    assert metrics["A_new"] == pytest.approx(100 * (0.8 + 1.0 + 0.9) / 3)
    assert metrics["forgetting"] == pytest.approx(100 * ((0.8 - 0.6) + (1.0 - 0.5)) / 2)
    assert accuracy_rows(correct, counts)[1] == [50.0, 100.0]


def test_one_experience_forgets_nothing():
    assert summarize([[3]], [4]) == {"A_T": 75.0, "A_bar": 75.0, "A_new": 75.0, "forgetting": 0.0}
