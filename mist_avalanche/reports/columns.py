"""The columns that an accuracy table may have: their heads, and which end of them is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..strategies.names import UPPER_BOUNDS
from .summary import METRICS, Runs, mean_and_std


class Column(NamedTuple):
    """A metric's heads, and whether less of it is better."""

    html: str
    latex: str
    less_is_better: bool = False


COLUMNS: Mapping[str, Column] = {
    "A_T": Column("<i>A</i><sub>T</sub>", r"$A_T$"),
    "A_bar": Column("<i>A&#772;</i>", r"$\bar A$"),
    "A_new": Column("<i>A</i><sub>new</sub>", r"$A_\mathrm{new}$"),
    "forgetting": Column("forgetting", "Forgetting", less_is_better=True),
}
BEST, SECOND = 1, 2


def chosen(columns: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of columns, all of them for None.

    Raises:
        ValueError: a name that is not known, or one given twice, or none at all.
    """
    if columns is None:
        return METRICS
    names = [c.strip() for c in columns.split(",")] if isinstance(columns, str) else [*columns]
    for name in names:
        if name not in COLUMNS:
            raise ValueError(f"Unknown column {name!r}. Use {', '.join(COLUMNS)}.")
    if not names or len({*names}) < len(names):
        raise ValueError(f"Expected columns, each once, got {', '.join(names) or 'none'}.")
    return tuple(names)


def ranks(methods: Mapping[str, Runs], column: str) -> dict[str, int]:
    """``BEST`` and, of three methods or more, ``SECOND``, by the mean as it is shown.

    Methods that show the same share a rank. Upper bounds (joint, cumulative) have none.
    """
    shown = {
        label: round(mean_and_std(runs)[column]["mean"], 1)
        for label, runs in methods.items()
        if label.partition("+")[0] not in UPPER_BOUNDS
    }
    order = sorted({*shown.values()}, reverse=not COLUMNS[column].less_is_better)
    if len(order) < 2:
        return {}
    last = SECOND if len(shown) > 2 else BEST
    places = {value: place for place, value in enumerate(order[:last], BEST)}
    return {label: places[value] for label, value in shown.items() if value in places}
