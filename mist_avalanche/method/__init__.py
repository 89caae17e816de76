"""The paper's method, without Avalanche: loss, views, sensitivity, selection, gradients, tuning.

A batch goes through ``views``, a backbone and ``losses`` (``objective`` joins them);
``sensitivity`` scores the weights, ``selection`` chooses those that may move,
``gradients`` masks and guards, ``tuning`` takes the steps, and ``history`` remembers
what earlier experiences selected.
"""

from .losses import SupervisedInfoNCE, supervised_info_nce
from .options import MISTOptions
from .selection import Selection, select
from .sensitivity import fisher_scores
from .views import SecondView

__all__ = [
    "MISTOptions",
    "SecondView",
    "Selection",
    "SupervisedInfoNCE",
    "fisher_scores",
    "select",
    "supervised_info_nce",
]
