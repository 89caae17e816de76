"""The paper's method, without Avalanche: loss, views, sensitivity, selection, gradients, tuning.

A batch goes through :mod:`.views`, a backbone and :mod:`.losses` (:mod:`.objective` joins them);
:mod:`.sensitivity` scores the weights, :mod:`.selection` chooses those that may move,
:mod:`.gradients` masks and guards, :mod:`.tuning` takes the steps, and :mod:`.history` remembers
what earlier experiences selected.
"""

from .losses import SupervisedInfoNCE, supervised_info_nce
from .selection import Selection, select
from .sensitivity import fisher_scores
from .views import SecondView

__all__ = [
    "SecondView",
    "Selection",
    "SupervisedInfoNCE",
    "fisher_scores",
    "select",
    "supervised_info_nce",
]
