"""The paper's method in pure torch, without Avalanche.

:class:`~mist_avalanche.method.mist.MIST` is Algorithm 1: it scores the weights (``sensitivity``)
by an ``objective`` (``losses`` of two ``views``), selects those that may move (``selection``) and
tunes them (``sparse_sgd``). ``freezing`` keeps all others fixed while a strategy trains.
"""

from .mist import MIST as MIST
from .objective import SupervisedInfoNCE as SupervisedInfoNCE
from .objective import supervised_info_nce as supervised_info_nce
from .options import MISTOptions as MISTOptions
from .selection import Selection as Selection
from .selection import select as select
from .sensitivity import fisher_scores as fisher_scores
from .sparse_sgd import SparseSGD as SparseSGD
from .views import SecondView as SecondView
