"""The four metrics of a class-incremental run, from its matrix of correct predictions (pure)."""

from collections.abc import Sequence

import numpy as np


def summarize(correct: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, float]:
    """A_T, A_bar, A_new and forgetting, in percent.

    Args:
        correct: row t has the number of correct test images of experiences 0..t after training on
            experience t, predicted among all classes seen so far.
        counts: number of test images of each experience.

    Returns:
        ``A_T``: accuracy on all test images of seen classes after the last experience. ``A_bar``:
        mean of this accuracy after each experience. ``A_new``: mean accuracy on the newest classes.
        ``forgetting``: mean over the earlier experiences of the best accuracy on their classes
        minus the last (Chaudhry et al., arXiv 1801.10112); 0 for one experience.
    """
    n = np.asarray(counts, dtype=np.float64)
    after = [sum(row) / n[: len(row)].sum() for row in correct]
    rows = accuracy_rows(correct, counts)
    last = len(rows) - 1
    drops = [max(row[i] for row in rows[i:last]) - rows[last][i] for i in range(last)]
    return {
        "A_T": 100 * after[-1],
        "A_bar": 100 * float(np.mean(after)),
        "A_new": float(np.mean([row[-1] for row in rows])),
        "forgetting": float(np.mean(drops)) if drops else 0.0,
    }


def accuracy_rows(correct: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[float]]:
    """Lower-triangular accuracies in percent: row t, experiences 0..t."""
    return [[100 * c / counts[i] for i, c in enumerate(row)] for row in correct]
