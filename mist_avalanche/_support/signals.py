"""Runs that end when they are told to: SIGTERM, Ctrl-C, and the death of the parent process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PAUSE = b"\nStopping after this step; once more to stop at once.\n"


class Terminated(BaseException):
    """SIGTERM has come; like KeyboardInterrupt, no error that a run would be marked with."""


class _Request:
    """The signal that has come, if one has, and whether it has to wait."""

    number: int | None = None
    waits = False


_request = _Request()


def stop_asked() -> int | None:
    """The number of the signal to stop that has come, if one has."""
    return _request.number


def stop(number: int) -> None:
    """Raise what a signal stands for."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def pausing() -> Iterator[None]:
    """Inside, a first signal does not raise by itself: :func:`stop_asked` gives it."""
    _request.waits = True
    try:
        yield
    finally:
        _request.waits = False


@contextmanager
def ending_cleanly(*numbers: int) -> Iterator[None]:
    """Signals raise :class:`Terminated` or KeyboardInterrupt; the second one exits at once.

    Args:
        numbers: of the signals; none for SIGTERM and SIGINT.
    """
    numbers = numbers or (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def first(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker of a data loader: its parent decides
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        for each in numbers:
            signal.signal(each, lambda again, _frame: os._exit(128 + again))
        _request.number = number
        if _request.waits:
            if multiprocessing.parent_process() is None:  # of a worker, its parent speaks
                os.write(2, _PAUSE)
        else:
            stop(number)

    before = {each: signal.signal(each, first) for each in numbers}
    try:
        yield
    finally:
        _request.number = None
        for each, handler in before.items():
            signal.signal(each, handler)


def follow_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
