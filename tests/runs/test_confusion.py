from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mist_avalanche.reports.figures import mean_confusion
from mist_avalanche.runs.confusion import Confusion

EXPERIENCES = [[3, 0], [1, 4], [2]]


def seen(n=200, n_logits=5):
    """Batches of labels and logits, and every pair of label and prediction in them."""
    generator = torch.Generator().manual_seed(0)
    batches, pairs = [], []
    for size in (n, n // 2):
        labels = torch.randint(5, (size,), generator=generator)
        logits = torch.randn(size, n_logits, generator=generator)
        batches.append(SimpleNamespace(mb_y=labels, mb_output=logits))
        pairs += zip(labels.tolist(), logits[:, :5].argmax(1).tolist(), strict=True)
    return batches, pairs


@pytest.mark.parametrize("n_logits", [5, 8, 4])  # heads of another width than the benchmark
def test_summary_counts_as_a_naive_loop(n_logits):
    confusion = Confusion(5)
    batches, pairs = seen(n_logits=n_logits)
    confusion.before_eval(None)
    for batch in batches:
        confusion.after_eval_iteration(batch)
    found = confusion.summary(EXPERIENCES)
    of = {c: e for e, classes in enumerate(EXPERIENCES) for c in classes}
    naive = np.zeros((3, 3), dtype=int)
    for label, predicted in pairs:
        naive[of[label], of[predicted]] += 1
    assert found["experiences"] == naive.tolist()
    wrong = {(i, j): pairs.count((i, j)) for i in range(5) for j in range(5) if i != j}
    assert {(i, j): n for i, j, n in found["classes"]} == {k: n for k, n in wrong.items() if n}
    counts = [n for *_, n in found["classes"]]
    assert counts == sorted(counts, reverse=True)


def test_each_evaluation_counts_anew_and_logs_nothing():
    confusion = Confusion(5)
    batches, _ = seen()
    for _ in range(2):
        confusion.before_eval(None)
        confusion.after_eval_iteration(batches[0])
        assert confusion.after_eval(None) is None
    assert sum(map(sum, confusion.summary(EXPERIENCES)["experiences"])) == 200


def test_mean_over_seeds_is_of_shares():
    runs = [
        {"confusion": {"experiences": [[1, 1], [0, 2]]}, "test_images": [2, 4]},
        {"confusion": {"experiences": [[4, 0], [1, 1]]}, "test_images": [4, 2]},
    ]
    assert mean_confusion(runs).tolist() == [[75, 25], [25, 50]]
