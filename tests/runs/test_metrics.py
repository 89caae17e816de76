"""Metrics against closed forms and naive loops."""

import numpy as np
import pytest
import torch

from mist_avalanche.runs.metrics import accuracy_rows, summarize
from mist_avalanche.runs.results import confusions


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


def test_confusions_count_as_a_naive_loop():
    pairs = torch.randint(5, (300, 2), generator=torch.Generator().manual_seed(0)).tolist()
    matrix = torch.zeros(5, 5, dtype=torch.long)
    naive = np.zeros((3, 3), dtype=int)
    experiences = [[3, 0], [1, 4], [2]]
    experience = {c: e for e, classes in enumerate(experiences) for c in classes}
    for label, predicted in pairs:
        matrix[label, predicted] += 1
        naive[experience[label], experience[predicted]] += 1
    found = confusions(matrix, experiences)
    assert found["experiences"] == naive.tolist()
    wrong = {(i, j): pairs.count([i, j]) for i in range(5) for j in range(5) if i != j}
    assert {(i, j): n for i, j, n in found["classes"]} == {k: n for k, n in wrong.items() if n}
    counts = [n for *_, n in found["classes"]]
    assert counts == sorted(counts, reverse=True)
