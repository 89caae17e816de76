"""A small run, killed at random moments and resumed until its end: the same bits every time?

``python tests/kill.py --kills 30`` prints what each kill has hit. RanPAC with MIST before every
experience and drift compensation, on some experiences of glyphs, in processes that are forked, so
that a moment is one of the run and not of imports.
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
from pathlib import Path

import torch

from mist_avalanche import cli, runner
from mist_avalanche.prediction import DELTA, HEAD

EXPERIENCES = 4
MIST = ("tune_epochs=3", "later_epochs=2", "projection_epochs=2", "score_on=every")
ARGUMENTS = [
    *("run", "--benchmark", "glyphs", "--strategy", "ranpac", "--mist", "--drift-compensation"),
    *("--experiences", "50", "--jobs", "1", "--quiet", "--checkpoint-every", "0"),
    *(part for setting in MIST for part in ("--mist-arg", setting)),
    *("--strategy-arg", "n_random_features=400", "--resume"),
]


class Few:
    """The first experiences of a benchmark."""

    def __init__(self, benchmark):
        self.benchmark = benchmark

    def __getattr__(self, name):
        value = getattr(self.benchmark, name)
        return value[:EXPERIENCES] if name.endswith("_stream") else value


def few_glyphs():
    """Let the command's glyphs be few, drawn once."""
    glyphs = Few(runner.BENCHMARKS["glyphs"](runner.RunConfig(experiences=50)))
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
    return {**{key: results[key] for key in kept}, "weights": weights}


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


def trial(output, moments, number=signal.SIGKILL):
    """A run that is ended at some moments after its starts, then goes on; what was left each time.

    Returns:
        The exit codes, and what was left.
    """
    output.mkdir(parents=True)
    codes, found = [], []
    for seconds in moments:
        codes.append(end_of(start(output), seconds, number))
        found.append(left(output))
        if codes[-1] == 0:
            break
    if not codes or codes[-1] != 0:
        code = end_of(start(output))
        assert code == 0, (output / "stderr.txt").read_text()
    assert not (output / "checkpoints").exists()
    return codes, found


def main():
    """Kill, resume, compare, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=30)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.monotonic()
        trial(whole, [])
        seconds = time.monotonic() - began
        wanted, kills, different = outcome(whole), 0, 0
        print(f"uninterrupted: {seconds:.1f} s, {json.dumps(wanted['metrics'])}\n")
        print("| run | killed after (s) | checkpoints then | result |\n| --: | --- | --- | --- |")
        for i in range(10**9):
            if kills >= given.kills:
                break
            moments = [draw.uniform(0, seconds) for _ in range(draw.choice((1, 1, 2, 3)))]
            output = Path(folder) / f"{i}"
            codes, found = trial(output, moments)
            kills += sum(code != 0 for code in codes)
            same = outcome(output) == wanted
            different += not same
            shown = " + ".join(f"{m:.2f}" for m in moments[: len(codes)])
            print(f"| {i} | {shown} | {'; '.join(found)} | {'same bits' if same else 'OTHER'} |")
            sys.stdout.flush()
    print(f"\n{kills} kills, {different} runs that ended otherwise")
    return 1 if different else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    few_glyphs()
    sys.exit(main())
