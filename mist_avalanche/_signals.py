"""Runs that end when they are told to: SIGTERM, Ctrl-C, and the death of the parent process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM has come; like KeyboardInterrupt, no error that a run would be marked with."""


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated`; after it, or after Ctrl-C, another one exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def first(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker of a data loader
            os._exit(128 + number)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda again, _frame: os._exit(128 + again))
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {each: signal.signal(each, first) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def follow_parent() -> None:
    """In a worker process: leave signals to the parent, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
