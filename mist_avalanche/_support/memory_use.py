"""What to do where memory is too little."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def advice(what: str, fix: str) -> Iterator[None]:
    """Where memory runs out inside, say at what and how to need less.

    Raises:
        MemoryError: in place of torch's error, which it is raised from.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"The GPU's memory is too small for {what}. {fix}") from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise MemoryError(f"The memory is too small for {what}. {fix}") from error
