"""What runs say, in words: who is best, and what MIST adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..strategies.names import display_name
from .columns import BEST, ranks
from .gains import Gain, gains
from .summary import Runs, mean_and_std


def lead(methods: Mapping[str, Runs]) -> str:
    """The point of a comparison in a sentence or two; "" for no methods."""
    found = {label: mean_and_std(runs)["A_T"] for label, runs in methods.items()}
    best = [label for label, rank in ranks(methods, "A_T").items() if rank == BEST]
    best = best or [*found][:1]  # one method, or all the same
    said = []
    for label in best[:1]:
        spread = f" ± {found[label]['std']:.1f}" if len(methods[label]) > 1 else ""
        shared = " (others are level)" if len(best) > 1 else ""
        verb = "has the best A_T" if len(methods) > 1 else "has an A_T"
        seeds = counted(len(methods[label]), "seed")
        mean = f"{found[label]['mean']:.1f}{spread} %"
        of = f"{mean} over {seeds}{_part(methods[label][0])}"
        said.append(f"{display_name(label)} {verb}{shared}: {of}.")
    whole = [g for g in gains(methods) if g.label.split("+")[1] == "mist"]
    said += [f"{_adds(g)}." for g in whole]
    return " ".join(said)


def _part(results: Mapping[str, Any]) -> str:
    """Which experiences a run was of, where not of all."""
    config = results["config"]
    if config.get("first") is None:
        return ""
    return f", after {config['first']} of {config['experiences']} experiences"


def _adds(gain: Gain) -> str:
    added = display_name(gain.label).removeprefix(f"{display_name(gain.host)} + ")
    if round(gain.mean, 1) >= 0:
        return f"{added} adds {in_points(gain)} to {display_name(gain.host)}"
    return f"{added} changes {display_name(gain.host)} by {in_points(gain)}"


def in_points(gain: Gain) -> str:
    """A gain with its interval."""
    seeds = counted(len(gain.differences), "seed")
    if gain.half is None:
        return f"{gain.mean:+.1f} points ({seeds}, no interval)"
    low, high = gain.mean - gain.half, gain.mean + gain.half
    return f"{gain.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, {seeds})"


def counted(n: int, what: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{n} {what}{'' if n == 1 else 's'}"
