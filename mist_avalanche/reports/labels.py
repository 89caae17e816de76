"""Labels of methods, such as ``simplecil+mist``, and the names that people read."""

from __future__ import annotations

from ..method.ablations import ABLATIONS
from ..strategies.registry import STRATEGIES

_ADDITIONS = {
    "mist": "MIST",
    "drift": "drift compensation",
    **{name: f"MIST ({ablation.title})" for name, ablation in ABLATIONS.items()},
}


def display_name(label: str) -> str:
    """A method's name as people read it; unknown labels stay as they are."""
    strategy, *additions = label.split("+")
    if not {*additions} <= _ADDITIONS.keys():
        return label
    title = STRATEGIES[strategy].title if strategy in STRATEGIES else strategy
    return " + ".join([title, *(_ADDITIONS[addition] for addition in additions)])


def host_of(label: str) -> str | None:
    """The method that MIST, whole or ablated, was added to; None for a method without MIST."""
    strategy, *additions = label.split("+")
    with_mist = additions and (additions[0] == "mist" or additions[0] in ABLATIONS)
    return strategy if with_mist else None


def is_upper_bound(label: str) -> bool:
    """Whether a method sees the images of all experiences at once."""
    strategy = label.partition("+")[0]
    return strategy in STRATEGIES and STRATEGIES[strategy].upper_bound
