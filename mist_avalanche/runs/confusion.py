"""Which classes test images are mistaken for after the last experience."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from avalanche.evaluation.metrics import StreamConfusionMatrix

_PAIRS = 20  # that are kept


class Confusion(StreamConfusionMatrix):
    """Avalanche's confusion matrix of the latest evaluation, without a log entry.

    Args:
        n_classes: of the benchmark.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(num_classes=n_classes, save_image=False)

    def after_eval_iteration(self, strategy: Any) -> None:
        """Count a batch."""
        self.update(strategy.mb_y.cpu(), strategy.mb_output.cpu())

    def after_eval(self, strategy: Any) -> None:
        """Log nothing: an image of the whole matrix is too large to read."""

    def summary(self, experiences: Sequence[Iterable[int]]) -> dict[str, list[list[int]]]:
        """As in results.json.

        Args:
            experiences: the classes of each.

        Returns:
            ``experiences``: row i, column j: images of the classes of experience i that were taken
            for a class of experience j. ``classes``: the pairs of classes that were confused most
            often, as true class, predicted class and number of images.
        """
        matrix = self.result()
        groups = [[*classes] for classes in experiences]
        wrong = matrix.clone().fill_diagonal_(0)
        most = wrong.flatten().argsort(descending=True, stable=True)[:_PAIRS].tolist()
        pairs = [(i // len(wrong), i % len(wrong)) for i in most]
        return {
            "experiences": [[int(matrix[i][:, j].sum()) for j in groups] for i in groups],
            "classes": [[i, j, int(wrong[i, j])] for i, j in pairs if wrong[i, j]],
        }
