"""The command ``mist-avalanche``: its subcommands, its errors, and what Ctrl-C does.

An error is one line and exit code 1. Ctrl-C, or SIGTERM, stops all runs and gives exit code 130;
``--resume`` goes on after the last experience that each run finished. Only the module of the chosen
subcommand is imported, so help does not wait for torch.
"""

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from json import JSONDecodeError

from .._version import __version__
from .options import with_options_file

COMMANDS = {
    "run": "one strategy",
    "compare": "several strategies, with and without MIST",
    "ablate": "what each part of MIST contributes",
    "suggest": "learning rates of MIST, tried on training images of the first experience",
    "predict": "classify images with a finished run",
    "inspect": "where MIST may change the backbone in a run",
    "list": "the strategies: papers, backbones, what each keeps, when MIST tunes",
    "data": "find, download and check the image datasets",
    "delta": "what tuning changed in a backbone, as a small file",
}
_ERRORS = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError, ImportError)


def parser_for(command: str) -> argparse.ArgumentParser:
    """The parser with the options of one subcommand; of the others it has the names alone."""
    parser = argparse.ArgumentParser(
        "mist-avalanche", description="Continual learning with pretrained models, and MIST."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in COMMANDS.items():
        options = commands.add_parser(name, help=about, description=f"{name}: {about}.")
        if name == command:
            module = import_module(f".{name}", __name__)
            module.add_arguments(options)
            options.set_defaults(execute=module.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    parser = parser_for(given[0] if given else "")
    args = parser.parse_args(given)
    from ..utils import hide_avalanche_warnings  # not above: it imports torch

    hide_avalanche_warnings()
    for stream in (sys.stdout, sys.stderr):  # a name that a console cannot show ends no command
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if getattr(args, "config", None):
            args = with_options_file(args, parser, given)
        level = logging.WARNING if getattr(args, "quiet", False) else logging.INFO
        logging.getLogger("mist_avalanche").setLevel(level)
        args.command_line = shlex.join(["mist-avalanche", *given])
        return args.execute(args) or 0
    except KeyboardInterrupt:
        resume = " --resume goes on." if hasattr(args, "resume") else ""
        if getattr(args, "launcher", None) == "slurm":
            resume = " The same command follows the jobs, --gather reports what is finished."
        print(f"mist-avalanche: stopped.{resume}", file=sys.stderr)
        return 130
    except _ERRORS as error:
        if isinstance(error, JSONDecodeError):  # which Avalanche reads when it is imported
            error = ValueError(f"Avalanche's ~/.avalanche/config.json is damaged: {error}")
        print(f"mist-avalanche: {error}", file=sys.stderr)
        return 1
