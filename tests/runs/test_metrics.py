"""Metrics against closed forms and naive loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mist_avalanche.runs.confusion import Confusion
from mist_avalanche.runs.metrics import accuracy_rows, summarize

EXPERIENCES = [[3, 0], [1, 4], [2]]


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


@pytest.mark.parametrize("n_logits", [5, 8, 4])  # heads of another width than the benchmark
def test_confusion_counts_as_a_naive_loop(n_logits):
    generator = torch.Generator().manual_seed(0)
    confusion, pairs = Confusion(5), []
    for size in (0, 200, 100):  # the first evaluation is forgotten
        if size != 100:
            confusion.before_eval(None)
        labels = torch.randint(5, (size or 50,), generator=generator)
        logits = torch.randn(len(labels), n_logits, generator=generator)
        confusion.after_eval_iteration(SimpleNamespace(mb_y=labels, mb_output=logits))
        predicted = logits[:, :5].argmax(1).tolist()
        pairs += zip(labels.tolist(), predicted, strict=True) if size else []
    assert confusion.after_eval(None) is None
    found = confusion.summary(EXPERIENCES)
    experience = {c: e for e, classes in enumerate(EXPERIENCES) for c in classes}
    naive = np.zeros((3, 3), dtype=int)
    for label, predicted in pairs:
        naive[experience[label], experience[predicted]] += 1
    assert found["experiences"] == naive.tolist()
    wrong = {(i, j): pairs.count((i, j)) for i in range(5) for j in range(5) if i != j}
    assert {(i, j): n for i, j, n in found["classes"]} == {k: n for k, n in wrong.items() if n}
    counts = [n for *_, n in found["classes"]]
    assert counts == sorted(counts, reverse=True)
