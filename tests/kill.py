"""A small run, killed at random moments and resumed until its end: the same bits every time?

``python tests/kill.py --kills 30`` prints what each kill has hit; ``--signals KILL,TERM,INT`` asks
two of three runs to stop instead. RanPAC or another ``--strategy`` on some experiences of glyphs,
with MIST before each unless ``--without-mist``, in processes that are forked, so that a moment is
one of the run and not of imports.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from itertools import cycle
from pathlib import Path

import torch

from mist_avalanche.cli import command as cli
from mist_avalanche.runs import config, runner
from mist_avalanche.runs.prediction import DELTA, HEAD

MIST = ("tune_epochs=3", "projection_epochs=2", "score_on=every", "tune_on=every", "later_epochs=2")
WITH_MIST = ["--mist", *(part for setting in MIST for part in ("--mist-arg", setting))]
STRATEGIES = {
    "ranpac": ["--drift-compensation", "--strategy-arg", "n_random_features=400"],
    "simplecil": ["--drift-compensation"],
    "naive": ["--strategy-arg", "train_epochs=2"],
}
ARGUMENTS = [
    *("run", "--benchmark", "glyphs", "--experiences", "50", "--jobs", "1", "--quiet"),
    *("--checkpoint-every", "0", "--resume"),
]


class Few:
    """The first experiences of a benchmark."""

    def __init__(self, benchmark, n_experiences):
        self.benchmark, self.n_experiences = benchmark, n_experiences

    def __getattr__(self, name):
        value = getattr(self.benchmark, name)
        return value[: self.n_experiences] if name.endswith("_stream") else value


def few_glyphs(n_experiences):
    """Let the command's glyphs be few, drawn once."""
    whole = config.BENCHMARKS["glyphs"](config.RunConfig(experiences=50))
    glyphs = Few(whole, n_experiences)
    runner.BENCHMARKS = {"glyphs": lambda _: glyphs}


def start(output, more=()):
    """A run in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with (
            open(os.devnull, "w") as nowhere,
            open(output / "stderr.txt", "a") as log,
            redirect_stdout(nowhere),
            redirect_stderr(log),
        ):
            code = cli.main([*ARGUMENTS, *more, "--output", str(output)])
    finally:
        os._exit(code)


def end_of(child, seconds=None, number=signal.SIGKILL):
    """Wait for a process, for some seconds at the most before a signal; its exit code."""
    until = time.monotonic() + (3600 if seconds is None else seconds)
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(output):
    """All of a finished run's numbers, and a digest of its weights."""
    results = json.loads((output / "results.json").read_text())
    weights = [hashlib.sha256((output / f).read_bytes()).hexdigest() for f in (DELTA, HEAD)]
    kept = ("metrics", "accuracy", "parameters", "mist", "classes_seen")
    return {**{key: results.get(key) for key in kept}, "weights": weights}


def left(output):
    """What a killed run has left, in words."""
    if (output / "results.json").exists():
        return "finished"
    names = sorted(p.name for p in output.glob("checkpoints/*"))
    names = [
        n.removesuffix(".pt").removeprefix("experience-").replace("tuning-", "~") for n in names
    ]
    writing = ", writing" if any(output.glob("checkpoints/.*.tmp")) else ""
    return (", ".join(names[:1] + names[1:][-2:]) or "nothing") + writing


def trial(output, moments, more, number=signal.SIGKILL):
    """A run that is ended at some moments after its starts, then goes on; what was left each time.

    Returns:
        The exit codes, and what was left.
    """
    output.mkdir(parents=True)
    codes, found = [], []
    for seconds in moments:
        codes.append(end_of(start(output, more), seconds, number))
        found.append(left(output))
        if codes[-1] == 0:
            break
    if not codes or codes[-1] != 0:
        code = end_of(start(output, more))
        assert code == 0, (output / "stderr.txt").read_text()
    assert not (output / "checkpoints").exists()
    return codes, found


def main():
    """Kill, resume, compare, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=30)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--signals", default="KILL", help="in turn")
    arguments.add_argument("--experiences", type=int, default=4)
    arguments.add_argument("--strategy", choices=STRATEGIES, default="ranpac")
    arguments.add_argument("--without-mist", action="store_true")
    given = arguments.parse_args()
    more = ["--strategy", given.strategy, *STRATEGIES[given.strategy]]
    more += [] if given.without_mist else WITH_MIST
    few_glyphs(given.experiences)
    numbers = cycle(signal.Signals[f"SIG{name}"] for name in given.signals.split(","))
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.monotonic()
        trial(whole, [], more)
        seconds = time.monotonic() - began
        wanted, kills, different = outcome(whole), 0, 0
        print(f"uninterrupted: {seconds:.1f} s, {json.dumps(wanted['metrics'])}\n")
        print("| run | signal | after (s) | checkpoints then | result |")
        print("| --: | --- | --- | --- | --- |")
        for i in range(10**9):
            if kills >= given.kills:
                break
            moments = [draw.uniform(0, seconds) for _ in range(draw.choice((1, 1, 2, 3)))]
            output = Path(folder) / f"{i}"
            number = next(numbers)
            code = -number if number == signal.SIGKILL else 128 + number
            codes, found = trial(output, moments, more, number)
            kills += codes.count(code)
            same = outcome(output) == wanted and {*codes} <= {code, 0}
            different += not same
            shown = " + ".join(f"{m:.2f}" for m in moments[: len(codes)])
            row = (i, number.name, shown, "; ".join(found), "same bits" if same else "OTHER")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    print(f"\n{kills} kills, {different} runs that ended otherwise")
    return 1 if different else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.exit(main())
