"""Labels of methods, such as ``simplecil+mist``, and their display names."""

from ..method.ablations import ABLATIONS
from ..strategies.registry import STRATEGIES

_ADDITIONS = {
    "mist": "MIST",
    "joined": "joined features",
    "drift": "drift compensation",
    **{name: f"MIST ({ablation.title})" for name, ablation in ABLATIONS.items()},
}


def display_name(label: str) -> str:
    """The display name of a method; unknown labels are returned unchanged.

    ``ranpac+mist@lr=0.001`` is RanPAC + MIST (lr=0.001).
    """
    parts = [part.partition("@")[::2] for part in label.split("+")]
    (strategy, _), *additions = parts
    if not {name for name, _ in additions} <= _ADDITIONS.keys():
        return label
    title = STRATEGIES[strategy].title if strategy in STRATEGIES else strategy
    names = [title, *(_ADDITIONS[name] for name, _ in additions)]
    values = (f" ({v.replace(',', ', ')})" if v else "" for _, v in parts)
    return " + ".join(map(str.__add__, names, values))


def host_of(label: str) -> str | None:
    """The method that MIST, full or ablated, was added to; None for a method without MIST."""
    strategy, *additions = label.split("+")
    first = additions[0].partition("@")[0] if additions else ""
    return strategy if first == "mist" or first in ABLATIONS else None


def is_upper_bound(label: str) -> bool:
    """Whether a method sees the images of all experiences at once."""
    strategy = label.partition("+")[0].partition("@")[0]
    return strategy in STRATEGIES and STRATEGIES[strategy].upper_bound
