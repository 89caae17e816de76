"""Checks of user input: the argument, what was expected, what came, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, TypeVar

T = TypeVar("T", bound=str)


def check_rate(name: str, value: float, interval: str) -> float:
    """A number inside an interval written like ``"[0, 1)"``, or ValueError."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"Expected `{name}` in {interval}, got {value!r}.") from None
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"Expected `{name}` in {interval}, got {value!r}.")
    return number


def check_integer(name: str, value: Any, minimum: int) -> int:
    """An integer of at least ``minimum``, or ValueError."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or value % 1 != 0 or value < minimum:
        raise ValueError(f"Expected an integer `{name}` of at least {minimum}, got {value!r}.")
    return int(value)


def check_choice(name: str, value: T, choices: tuple[str, ...]) -> T:
    """One of some strings, or ValueError."""
    if value not in choices:
        shown = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"Expected `{name}` to be {shown}, got {value!r}.")
    return value


def nearest_first(name: str, known: Collection[str]) -> str:
    """Known names as a list in words, those that look most like ``name`` first."""

    def distance(other: str) -> float:
        return -difflib.SequenceMatcher(None, name, other).ratio()

    return ", ".join(sorted(sorted(known), key=distance))


def check_not_empty(experience: Any) -> None:
    """ValueError where an experience has no images, which Avalanche's loaders cannot take."""
    if not len(experience.dataset):
        raise ValueError(f"Experience {experience.current_experience} has no images. Leave it out.")


def classes_of(experience: Any) -> list[int]:
    """Labels of an experience in order: its dataset's targets, or where there are none, its items'.

    Only some of Avalanche's benchmarks say ``classes_in_this_experience``.
    """
    dataset = experience.dataset
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [y for _, y, *_ in dataset.eval()]
    return sorted({int(y) for y in getattr(targets, "uniques", targets)})


def check_experience(experience: Any, number: int) -> None:
    """Two images of two classes at least: with less the MI objective has nothing to contrast."""
    n = len(experience.dataset)
    classes = classes_of(experience)
    fix = "Use fewer experiences"
    if number > 0:
        fix += ", or score and tune on the first only (score_on='first', tune_on='first')"
    if n < 2:
        raise ValueError(
            f"Experience {number} has {n} image(s); the MI objective contrasts at least two. {fix}."
        )
    if len(classes) < 2:
        raise ValueError(
            f"Experience {number} has images of class {classes[0]} only; the MI "
            f"objective needs at least two classes. {fix}."
        )


@contextmanager
def as_value_error(what: str) -> Iterator[None]:
    """Any error within as a ValueError that says what cannot be; for contents from elsewhere."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what} ({kind}{str(error)[:300]}).") from error
