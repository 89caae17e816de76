"""A disk that is full from some call on."""

import builtins
import errno
import io
import os
from collections import Counter
from contextlib import ExitStack
from unittest import mock

KINDS = ("replace", "fsync", "write")


class FullDisk:
    """Counts renames, flushes and writes, those of files that are not whole yet; fails some.

    Args:
        kind: of the calls that fail.
        at: number of the first that fails, from 1 on; all after it do too. 0: none fails.
    """

    def __init__(self, kind="write", at=0):
        self.kind, self.at = kind, at
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
        if kind == self.kind and 0 < self.at <= self.calls[kind]:
            raise OSError(errno.ENOSPC, "No space left on device")

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
        except OSError:
            self.file.write(part[: len(part) // 2])  # a disk is full in the midst of something
            raise
        return self.file.write(part)

    def flush(self):
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
