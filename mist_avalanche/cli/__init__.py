"""The command ``mist-avalanche``, one file a subcommand.

Nothing here learns. The parsers need no torch; what they run is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    from .command import main as run

    return run(arguments)
