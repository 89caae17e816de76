"""Progress bars, where somebody sees them move."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


def hidden(progress: bool) -> bool:
    """Whether to show no bar: nobody wants one, or it would go to a file."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return not (progress and seen)


@contextmanager
def step_bar(
    what: str, steps: int, verbose: bool, done: int = 0
) -> Iterator[Callable[[int, float], None]]:
    """A bar of steps, as the function that tells it of a step's epoch and loss."""
    with tqdm(total=steps, initial=done, desc=what, disable=hidden(verbose), leave=False) as bar:

        def advance(_epoch: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        yield advance
