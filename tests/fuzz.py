"""Files that are changed at random, and what their readers make of them.

``python tests/fuzz.py --seconds 60 --seed 0`` prints a table. A reader may give something, or
refuse with a ValueError or OSError that names the file. It may not raise anything else, take long,
take much memory, or execute anything.
"""

import argparse
import json
import logging
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from conftest import make_benchmark
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche._support.checksummed import read_checksummed, write_checksummed
from mist_avalanche._support.safetensors import strict_json
from mist_avalanche.deltas.delta import save_delta
from mist_avalanche.deltas.file import read_delta
from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.reference_config import read_config
from mist_avalanche.runs.results import earlier_results

LONGEST = 10  # seconds an input
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.")
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, -(2**31), 2**63, 10**30, 0.5, 1e308, float("nan"))
TEXTS = (
    *("", "a", "os:system", "builtins:eval", "builtins:object", "subprocess:Popen", "__class__"),
    *("torch:Tensor", "torch.nn.modules.linear:Linear", "mist_avalanche.plugin:MISTPlugin", "dict"),
    *("object", "tensor", "external", "method", "partial", "iterator", "strategy", "benchmark"),
    *("forward", "__init__", "|O8", "<f8", "PCG64", "9" * 5000, "\0", "ä" * 300),
)
executed = []


class TooLong(BaseException):
    """An input took too long."""


def watch(event, arguments):
    """An audit hook: what would be executed."""
    if event.startswith(FORBIDDEN):
        executed.append((event, arguments))


# Mutations


def changed_bytes(content, rng):
    """Pieces overwritten, removed, doubled and moved, numbers and brackets changed."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(content) or 1), rng.choice([1, 2, 8, 64])
        action = rng.randrange(6)
        if action == 0:
            content[at : at + length] = rng.randbytes(length)
        elif action == 1:
            del content[at : at + length]
        elif action == 2:
            content[at:at] = content[at : at + length]
        elif action == 3:
            content[at : at + length] = bytes([rng.choice(content or b"0")]) * length
        elif action == 4:
            content[at : at + 1] = rng.choice([b"9", b"-", b"[", b"}", b'"', b"e9", b"null", b"\0"])
        else:
            content = content[:at] if rng.random() < 0.5 else content + rng.randbytes(length)
    return bytes(content)


def any_value(rng, depth=3):
    """A value of any type that a checkpoint's content may have."""
    kind = rng.randrange(12 if depth else 7)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice([None, True, False])
    if kind == 5:
        return (rng.choice([0, 1, 2, 5, 40, 200, -1, 10**6]),)
    if kind == 6:
        return rng.choice(
            [
                torch.ones(2),
                torch.ones(1).expand(2**40),
                torch.arange(3),
                torch.zeros(0),
                torch.eye(2).to_sparse(),
                torch.ones(2, dtype=torch.uint8),
            ]
        )
    count = rng.choice([0, 1, 2, 5])
    if kind < 9:
        return [any_value(rng, depth - 1) for _ in range(count)]
    if kind == 9:
        return tuple(any_value(rng, depth - 1) for _ in range(count))
    if kind == 10:
        return {rng.choice(TEXTS): any_value(rng, depth - 1) for _ in range(count)}
    deep = []
    for _ in range(rng.choice([50, 800])):
        deep = [deep]
    return deep


def json_value(rng, depth=3):
    """A value that JSON can say."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice([None, True, False])
    count = rng.choice([0, 1, 2, 5])
    if kind < 7:
        return [json_value(rng, depth - 1) for _ in range(count)]
    return {rng.choice(TEXTS): json_value(rng, depth - 1) for _ in range(count)}


def places(content):
    """Every list and dictionary within some content that has something in it."""
    found, waiting = [], [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)) and value:
            found.append(value)
        if isinstance(value, (dict, list, tuple)):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def restructured(content, rng, new=any_value):
    """Values replaced, removed, doubled and exchanged, in a copy."""
    content = copied(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        found = places(content)
        if not found:
            break
        place = rng.choice(found)
        keys = [*place] if isinstance(place, dict) else range(len(place))
        key, other = rng.choice(keys), rng.choice(keys)
        action = rng.randrange(6)
        if action <= 1:
            place[key] = new(rng)
        elif action == 2:
            del place[key]
        elif action == 3:
            place[key], place[other] = place[other], place[key]
        elif action == 4 and isinstance(place, list):
            place.insert(key, place[other])
        elif type(place[key]) is tuple and len(place[key]) == 1:  # a reference
            place[key] = (rng.randrange(max(len(found), 1)),)
        else:
            place[key] = near(place[key], rng)
    return content


def copied(value):
    """Lists and dictionaries of the same values."""
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if type(value) is list else value


def near(value, rng):
    """A value of the same type."""
    if type(value) is bool:
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([-value, value + 1, value * 10**6, *NUMBERS])
    if isinstance(value, str):
        return rng.choice([*TEXTS, value[:-1], value + "x"])
    if isinstance(value, torch.Tensor):
        plain = value.ndim and value.layout is torch.strided
        return rng.choice([value[:0], value.double(), value.unsqueeze(0)]) if plain else value
    return None


# Readers


class Reader:
    """A reader of files: an example of them, changes of it, and a call that reads one.

    Args:
        folder: for files.
    """

    def __init__(self, folder):
        self.file = folder / "file"
        self.named = str(self.file)

    def change(self, rng):
        """Write a changed file."""
        self.file.write_bytes(changed_bytes(self.content, rng))


class Bytes(Reader):
    """Checkpoint files: what is read is what was written."""

    def __init__(self, folder):
        super().__init__(folder)
        tensors = {"a": torch.arange(50.0), "b": [torch.ones(3), "x" * 100, (1, 2.5)]}
        write_checksummed(tensors, self.file)
        self.content = self.file.read_bytes()

    def read(self):
        read_checksummed(self.file)
        assert self.file.read_bytes() == self.content


def strategy():
    """A strategy with a buffer, an optimizer and MIST."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    mist = MISTPlugin(tune_epochs=1, batch_size=4, seed=0, verbose=False)
    return Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        plugins=[mist],
        evaluator=EvaluationPlugin(loggers=[]),
    )


class Contents(Reader):
    """Checkpoints with a right checksum and wrong contents."""

    kind = "experience"

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder / "checkpoints"
        self.benchmark = make_benchmark(4, 2, 4, (3, 2, 2))
        made = strategy()
        checkpoint = Checkpoint(self.folder, made, self.benchmark, every=0)
        checkpoint.load()
        made.train(self.benchmark.train_stream[0])
        self.named = str(self.folder)
        if self.kind == "experience":
            checkpoint.save([1])
        (*_, self.file) = sorted(self.folder.glob(f"{self.kind}-*.pt"))
        for file in self.folder.glob(f"{self.kind}-*.pt"):
            if file != self.file:
                file.unlink()
        self.content = read_checksummed(self.file)

    def change(self, rng):
        content = self.content
        if rng.random() < 0.5:
            content = {**content, **{k: restructured(content[k], rng) for k in self.states}}
        else:
            content = restructured(content, rng)
        self.changed = content if rng.random() < 0.8 else None  # writing takes long
        if self.changed:
            return
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)  # for what is nested deeply
        try:
            write_checksummed(content, self.file)
        finally:
            sys.setrecursionlimit(limit)

    states = ("strategy",)

    def read(self):
        made = strategy()
        checkpoint = Checkpoint(self.folder, made, self.benchmark)
        with ExitStack() as patches:
            if self.changed:
                name = "mist_avalanche._support.checksummed.read_checksummed"
                patches.enter_context(mock.patch(name, side_effect=self._content))
            checkpoint.load()
        if self.kind == "tuning":
            checkpoint.take_up(made)

    def _content(self, file):
        return self.changed if file == self.file else read_checksummed(file)


class Tunings(Contents):
    """Checkpoints of the midst of a tuning."""

    kind = "tuning"
    states = ("plugin", "model")


class Deltas(Reader):
    """Deltas of weights."""

    def __init__(self, folder):
        super().__init__(folder)
        base = {"w": torch.zeros(20, 5), "b": torch.zeros(3).half()}
        adapted = {"w": torch.zeros(20, 5), "b": torch.ones(3).half()}
        adapted["w"][::4, 2] = 3
        save_delta(adapted, base, self.file, settings={"lr": [0.1, 3]}, license="MIT")
        self.content = self.file.read_bytes()

    def change(self, rng):
        content = bytearray(changed_bytes(self.content, rng))
        if rng.random() < 0.5:  # a header of the length that it states
            length = int.from_bytes(self.content[:8], "little") + len(content) - len(self.content)
            content[:8] = max(0, length).to_bytes(8, "little")
        self.file.write_bytes(content)

    def read(self):
        read_delta(self.file)


class Texts(Reader):
    """JSON, changed as bytes or as values."""

    named = ""
    values = {"a": [1, 2.5, None, {"b": "x", "c": [True, {}]}], "d": "e", "f": -3}  # noqa: RUF012

    def change(self, rng):
        if rng.random() < 0.4:
            text = changed_bytes(json.dumps(self.values).encode(), rng)
        elif rng.random() < 0.1:
            depth = rng.choice([100, 900, 10**5])
            text = json.dumps({**self.values, rng.choice([*self.values]): "HERE"})
            text = text.replace('"HERE"', "[" * depth + "]" * depth).encode()
        else:
            text = json.dumps(restructured(self.values, rng, json_value)).encode()
        self.file.write_bytes(text)


class Json(Texts):
    """Strict JSON."""

    def __init__(self, folder):
        super().__init__(folder)
        self.named = ""

    def read(self):
        strict_json(self.file.read_bytes().decode())


class Settings(Texts):
    """Settings files of the reference implementation."""

    values = {  # noqa: RUF012
        **{"prefix": "reproduce", "dataset": "imagenetr", "shuffle": True, "init_cls": 20},
        **{"increment": 20, "model_name": "ranpac_mist", "device": ["0"], "seed": [1993]},
        **{"convnet_type": "pretrained_vit_b16_224_in21k", "batch_size": 56, "select_rate": 0.1},
        **{"drop_rate": 0.9, "mi_epochs": 20, "M": 10000, "spr": 0.0005},
    }

    def read(self):
        read_config(self.file, RunConfig())


class Results(Texts):
    """results.json of a finished run."""

    values = {  # noqa: RUF012
        "schema": 1,
        "config": {**json.loads(json.dumps(RunConfig().settings())), "split": "x"},
        "metrics": {"A_T": 90.0, "A_mean": 95.0},
        "accuracy": [[100.0], [90.0, 80.0]],
        "timing": {"train": [1.0], "eval": [1.0], "total": 2.0},
        "parameters": {"trainable": 1, "updated": 1},
        "environment": {"torch": "2"},
    }

    def __init__(self, folder):
        super().__init__(folder)
        self.file, self.named = folder / "results.json", str(folder)

    def read(self):
        earlier_results(RunConfig(), self.file.parent)


READERS = {
    "checkpoint, any bytes": Bytes,
    "checkpoint, any content": Contents,
    "checkpoint of a tuning, any content": Tunings,
    "delta": Deltas,
    "strict JSON": Json,
    "settings of the reference": Settings,
    "results.json": Results,
}


@contextmanager
def limited():
    """A bound on the seconds that something may take."""

    def late(number, frame):
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(reader):
    """What a reader makes of its file: accepted, refused, or what else."""
    count = len(executed)
    try:
        with limited():
            reader.read()
        outcome = "accepted"
    except (ValueError, OSError) as error:
        text = str(error)
        outcome = "refused"
        if reader.named not in text or "MemoryError" in text or not text:
            outcome = f"{type(error).__name__}: {text[:300]}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome = f"{type(error).__name__}: {str(error)[:300]}"
    return outcome if len(executed) == count else f"executed {executed[-1]}"


def fuzz(name, folder, seed, inputs=10**9, seconds=10**9):
    """Outcomes of one reader, and inputs of those that are neither accepted nor refused."""
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    reader = READERS[name](folder)
    counts, others = {"accepted": 0, "refused": 0}, {}
    end, done = time.monotonic() + seconds, 0
    while done < inputs and time.monotonic() < end:
        reader.change(random.Random(f"{seed} {name} {done}"))
        outcome = attempt(reader)
        if outcome in counts:
            counts[outcome] += 1
        else:
            others.setdefault(outcome, done)
        done += 1
    logging.disable(logging.NOTSET)
    return {"inputs": done, **counts, "else": done - sum(counts.values())}, others


def main():
    """All readers, a share of the time each."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--reader", choices=READERS, action="append")
    given = arguments.parse_args()
    names = given.reader or [*READERS]
    limit = 8 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(watch)
    print("| reader | inputs | accepted | refused | anything else |")
    print("| --- | --: | --: | --: | --: |")
    found = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            share = given.seconds / len(names)
            counts, others = fuzz(name, Path(folder), given.seed, seconds=share)
        print(f"| {name} | {' | '.join(map(str, counts.values()))} |", flush=True)
        for outcome, done in others.items():
            print(f"{name}, seed {given.seed}, input {done}: {outcome}", file=sys.stderr)
        found += counts["else"]
    return 1 if found else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
