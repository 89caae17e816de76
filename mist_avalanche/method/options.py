"""The options of MIST and their ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..models.defaults import PRECISIONS
from ..utils import check_choice, check_integer, check_rate
from .objective import TEMPERATURE
from .views import View

_RANGES = {
    "select_rate": "(0, 1]",
    "drop_rate": "[0, 1)",
    "lr": "(0, inf)",
    "projection_lr": "(0, inf)",
    "temperature": "(0, inf)",
    "overlap_decay": "(0, 1]",
    "protect_rate": "[0, 1)",
}
_AT_LEAST = {"tune_epochs": 0, "later_epochs": 0, "batch_size": 2, "chunk_size": 1}
_CHOICES = {
    "score_on": ("first", "every"),
    "tune_on": ("first", "every"),
    "select_by": ("mi", "gradient", "magnitude", "random"),
    "ranking": ("per_tensor", "global"),
    "objective": ("mi", "cross_entropy"),
    "dynamics": ("sparse", "reference"),
    "precision": PRECISIONS,
}


@dataclass(frozen=True, kw_only=True)
class MISTOptions:
    """The options of MIST; :class:`~mist_avalanche.MISTPlugin` documents each of them.

    Raises:
        ValueError: an option is out of its range.
    """

    select_rate: float = 0.05
    drop_rate: float = 0.9
    tune_epochs: int = 20
    later_epochs: int | None = None
    score_on: Literal["first", "every"] = "first"
    tune_on: Literal["first", "every"] | None = None
    lr: float = 1e-4
    projection_lr: float = 1e-2
    temperature: float = TEMPERATURE
    overlap_decay: float = 0.9
    protect_rate: float = 0.0
    select_by: Literal["mi", "gradient", "magnitude", "random"] = "mi"
    ranking: Literal["per_tensor", "global"] = "per_tensor"
    objective: Literal["mi", "cross_entropy"] = "mi"
    dynamics: Literal["sparse", "reference"] = "sparse"
    classifier: str | None = None
    batch_size: int = 48
    chunk_size: int | None = None
    precision: Literal["32", "bf16"] = "32"
    compile: bool = False
    view: Mapping[str, Any] | View | None = None
    seed: int | None = None
    verbose: bool = True

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            if name in _RANGES:
                check_rate(name, value, _RANGES[name])
            elif name in _AT_LEAST:
                check_integer(name, value, _AT_LEAST[name])
            elif name in _CHOICES:
                check_choice(name, value, _CHOICES[name])
