"""The command ``mist-avalanche``: subcommands, errors and interruption.

An error prints one line and exits with code 1. Ctrl-C or SIGTERM stops all runs and exits with code
130; ``--resume`` continues after the last finished experience of each run. Only the module of the
chosen subcommand is imported, so that help does not have to import torch.
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
    "run": "train and evaluate one strategy",
    "compare": "train and evaluate several strategies, with and without MIST",
    "ablate": "measure what each part of MIST contributes",
    "suggest": "try learning rates of MIST on training images of the first experience",
    "predict": "classify images with a finished run",
    "inspect": "show which parts of the backbone MIST may change in a run",
    "list": "show the strategies: papers, backbones, what each stores, when MIST tunes",
    "data": "find, download and check the image datasets",
    "delta": "save what tuning changed in a backbone as a small file, or apply it",
}
_ERRORS = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError, ImportError)


def parser_for(command: str) -> argparse.ArgumentParser:
    """The parser with the options of one subcommand, and only the names of the others."""
    parser = argparse.ArgumentParser(
        "mist-avalanche", description="Continual learning with pretrained models and MIST."
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
    from ..utils import hide_avalanche_warnings  # not at the top: it imports torch

    hide_avalanche_warnings()
    for stream in (sys.stdout, sys.stderr):  # names that a console cannot show are no error
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("huggingface_hub").propagate = False  # it shows its messages itself
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if getattr(args, "config", None):
            args = with_options_file(args, parser, given)
        level = logging.WARNING if getattr(args, "quiet", False) else logging.INFO
        logging.getLogger("mist_avalanche").setLevel(level)
        args.command_line = shlex.join(["mist-avalanche", *given])
        return args.execute(args) or 0
    except KeyboardInterrupt:
        resume = " Continue with --resume." if hasattr(args, "resume") else ""
        if getattr(args, "launcher", None) == "slurm":
            resume = " The same command follows the jobs; --gather reports finished runs."
        print(f"mist-avalanche: stopped.{resume}", file=sys.stderr)
        return 130
    except _ERRORS as error:
        if isinstance(error, JSONDecodeError):  # Avalanche reads this file on import
            error = ValueError(f"Avalanche's ~/.avalanche/config.json is damaged: {error}")
        print(f"mist-avalanche: {error}", file=sys.stderr)
        return 1
