"""The command: its options parsed, what was asked for imported and run, errors on one line."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from .._support.signals import Terminated, ending_cleanly, stop_asked
from .._support.warnings import hide_avalanche_warnings
from .options import parser

_FILES = {"compare": "run", "ablate": "run"}  # others are in a file of their own name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Errors of the user are one line."""
    args = parser().parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    args.command_line = shlex.join(["mist-avalanche", *given])
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__.partition(".")[0]).setLevel(logging.INFO)  # not of libraries
    hide_avalanche_warnings()
    with ending_cleanly():
        try:
            name = _FILES.get(args.command, args.command)
            return import_module(f".{name}", __package__).execute(args) or 0
        except KeyboardInterrupt:
            number = signal.SIGINT
        except Terminated:
            number = signal.SIGTERM
        except BrokenPipeError:  # as by `| head`, which has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed at the end
            return 0
        except (
            ValueError,
            OSError,
            ArithmeticError,
            MemoryError,
            RuntimeError,
            TypeError,
        ) as error:
            asked = stop_asked()  # a signal to all processes ends a data loader's workers, too
            if asked is None:
                print(f"mist-avalanche: {error}", file=sys.stderr)
                return 1
            number = signal.Signals(asked)
    again = "--resume goes on" if hasattr(args, "resume") else "the same command goes on"
    what = "terminated" if number == signal.SIGTERM else "stopped"
    print(f"mist-avalanche: {what}; {again}", file=sys.stderr)
    return 128 + number
