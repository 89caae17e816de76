"""A disk that is full at some call, or a signal that comes there."""

import builtins
import errno
import io
import os
from collections import Counter
from contextlib import ExitStack
from unittest import mock

FULL = OSError(errno.ENOSPC, "No space left on device")
KINDS = ("replace", "fsync", "write")


class FullDisk:
    """Counts renames, flushes and writes, those of files that are not whole yet; fails one.

    Args:
        kind: of the call that fails.
        at: its number, from 1 on; 0 for none. What is written after it may fit again, as a few
            bytes do where a tensor does not.
        error: which it raises.
    """

    def __init__(self, kind="write", at=0, error=FULL):
        self.kind, self.at, self.error = kind, at, error
        self.calls = Counter()
        self._patches = ExitStack()

    def __enter__(self):
        for kind in ("replace", "fsync"):
            self._patches.enter_context(mock.patch.object(os, kind, self._counted(kind)))
        for module in (builtins, io):
            self._patches.enter_context(mock.patch.object(module, "open", self._opening))
        return self

    def __exit__(self, *error):
        self._patches.close()

    def count(self, kind):
        """Note a call; fail where it is to."""
        self.calls[kind] += 1
        if kind == self.kind and self.at == self.calls[kind]:
            raise self.error

    def _counted(self, kind):
        real = getattr(os, kind)

        def called(*arguments):
            self.count(kind)
            return real(*arguments)

        return called

    def _opening(self, path, mode="r", *arguments, real=open, **named):
        file = real(path, mode, *arguments, **named)
        unfinished = "w" in mode and str(path).endswith(".tmp")
        return _File(file, self) if unfinished else file


class _File:
    """A file to write to, on a disk that may be full."""

    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def write(self, part):
        try:
            self.disk.count("write")
        except BaseException:
            self.file.write(part[: len(part) // 2])  # a disk is full in the midst of something
            raise
        return self.file.write(part)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
