"""Progress: bars where somebody sees them move, and what passes through a backbone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tqdm.auto import tqdm

BACKWARD = 3  # an image with a gradient takes as long as so many without


class Listener(Protocol):
    """Hears what a run does."""

    def passed(self, images: int) -> None:
        """So many images have passed, one with a gradient counted :data:`BACKWARD` times."""

    def noted(self, what: str) -> None:
        """What is being done."""


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Inside, :func:`images_pass` and :func:`step_bar` tell a listener."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def images_pass(n: int, *, gradient: bool) -> None:
    """Tell the listener, if there is one, that n images pass through a backbone."""
    if listener := _LISTENER.get():
        listener.passed(n * (BACKWARD if gradient else 1))


def hidden(progress: bool) -> bool:
    """Whether to show no bar: nobody wants one, or it would go to a file."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return not (progress and seen)


@contextmanager
def step_bar(
    what: str, steps: int, verbose: bool, done: int = 0
) -> Iterator[Callable[[int, float], None]]:
    """A bar of steps, as the function that tells it of a step's epoch and loss."""
    listener = _LISTENER.get()
    with tqdm(total=steps, initial=done, desc=what, disable=hidden(verbose), leave=False) as bar:

        def advance(_epoch: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if listener:
                listener.noted(f"{what}, loss {loss:.3f}")

        yield advance
