"""Files that are damaged or made up, given to every reader of files.

``python tests/fuzz.py --seconds 600`` prints how many inputs each reader took and refused. A reader
may take what is still right, or refuse with a ValueError or an OSError, and nothing else.
"""

import argparse
import copy
import json
import logging
import random
import tempfile
import time
import warnings
from pathlib import Path

import torch
from compatibility import CASES, built

from mist_avalanche import MISTPlugin
from mist_avalanche._checksummed import read_checksummed, write_checksummed
from mist_avalanche.backbones import create_backbone
from mist_avalanche.checkpoint import Checkpoint
from mist_avalanche.delta import read_delta, save_delta
from mist_avalanche.reference_config import read_reference_config
from mist_avalanche.runner import RunConfig, _finished

ODD = (
    *(None, True, -1, 0, 1, 2, 7, 10**6, 2**63, -(2**70), 1e308, float("nan"), float("inf"), ""),
    *("external", "object", "tensor", "list", "dict", "method", "partial", "iterator", "array"),
    *("os:system", "builtins:eval", "subprocess:Popen", "torch:load", "strategy", "benchmark[1]"),
    *("torch.nn.modules.linear:Linear", "avalanche.training.utils:ParamData", "cuda", "<i8", "|O"),
    *((0,), (1,), (-1,), (10**9,), ("a",), (), [], {}, [["list", []]], {"a": (0,)}, [[]], "é" * 99),
)
SETTINGS = {
    **{"model_name": "ranpac_mist", "dataset": "imagenetr", "init_cls": 20, "increment": 20},
    **{"convnet_type": "vitb16224in21k", "seed": [1993, 1996], "batch_size": 48, "M": 10000},
    **{"select_rate": 0.05, "drop_rate": 0.9, "mi_epochs": 21, "shuffle": True, "device": ["0"]},
}


def spoilt_bytes(content, rng):
    """Some bytes overwritten, removed or repeated."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 8, 64, 4096))
        action = rng.randrange(4)
        if action == 0:
            content[at : at + length] = rng.randbytes(min(length, len(content) - at))
        elif action == 1:
            del content[at : at + length]
        elif action == 2:
            content[at:at] = content[at : at + length]
        elif len(content) > at:
            content[at] ^= 1 << rng.randrange(8)
    return bytes(content)


def spoilt_value(content, rng):
    """A copy of nested lists and dictionaries, in which some places were changed."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        holder, place = _place(content, rng)
        if holder is None:
            continue
        action = rng.randrange(4)
        if action == 0 and len(holder) > 1:
            del holder[place]
        elif action == 1 and isinstance(holder, list):
            holder.insert(place, copy.deepcopy(rng.choice(holder)))
        elif action == 2:
            other, elsewhere = _place(content, rng)
            holder[place] = copy.deepcopy(other[elsewhere]) if other else rng.choice(ODD)
        else:
            holder[place] = copy.deepcopy(rng.choice(ODD))
    return content


def _place(content, rng):
    """A list or dictionary somewhere within, and a place in it."""
    holder, place = None, None
    while isinstance(content, (list, dict)) and content and (holder is None or rng.random() < 0.85):
        holder = content
        place = rng.choice([*content]) if isinstance(content, dict) else rng.randrange(len(content))
        content = content[place]
    return holder, place


class Readers:
    """Each is a function of a folder and a random generator; it makes an input and reads it."""

    def __init__(self, folder):
        self.folder = folder
        self.checkpoint = folder / "checkpoint"
        self._strategy(self.checkpoint).load([1.5])
        self.file = self.checkpoint / "experience-0000.pt"
        self.bytes = self.file.read_bytes()
        self.content = read_checksummed(self.file)
        self.tuning, self.tuned = self._stopped_in_tuning()
        base = create_backbone()
        adapted = copy.deepcopy(base)
        adapted.fc_norm.bias.data += 1
        save_delta(adapted, base, folder / "a.safetensors", settings={"lr": 0.1})
        self.delta = (folder / "a.safetensors").read_bytes()
        self.results = {"config": {**RunConfig().settings(), "split": "glyphs"}, "metrics": {}}

    @staticmethod
    def _strategy(folder):
        mist = MISTPlugin(tune_epochs=1, batch_size=8, verbose=False, seed=0)
        strategy, stream = built(CASES["Strategies", "Naive"], [mist])
        return Checkpoint(folder, strategy, stream)

    def _stopped_in_tuning(self):
        """The file that was saved after a few steps of tuning, and its content."""
        checkpoint = self._strategy(self.folder / "tuning")
        checkpoint.load([])
        checkpoint.every = 0
        checkpoint.strategy.train(checkpoint.benchmark.train_stream[0], eval_streams=[])
        file = sorted(checkpoint.folder.glob("tuning-*.pt"))[-1]
        return file, read_checksummed(file)

    def checkpoint_bytes(self, rng):
        """A checkpoint's bytes, changed."""
        self.file.write_bytes(spoilt_bytes(self.bytes, rng))
        read_checksummed(self.file)
        assert self.file.read_bytes() == self.bytes

    def checkpoint_content(self, rng):
        """What a checkpoint says, changed, with a checksum that is right."""
        write_checksummed(spoilt_value(self.content, rng), self.file)
        self._strategy(self.checkpoint).load()

    def tuning_content(self, rng):
        """What a checkpoint between two steps of tuning says, changed."""
        write_checksummed(spoilt_value(self.tuned, rng), self.tuning)
        checkpoint = self._strategy(self.tuning.parent)
        checkpoint.load()
        checkpoint.take_up(checkpoint.strategy)

    def delta_bytes(self, rng):
        """A delta's bytes, changed."""
        file = self.folder / "a.safetensors"
        file.write_bytes(spoilt_bytes(self.delta, rng))
        read_delta(file)

    def settings_values(self, rng):
        """A settings file with other values."""
        file = self.folder / "settings.json"
        file.write_text(json.dumps(spoilt_value(SETTINGS, rng), default=str))
        read_reference_config(file, RunConfig())

    def settings_bytes(self, rng):
        """A settings file's bytes, changed."""
        file = self.folder / "settings.json"
        file.write_bytes(spoilt_bytes(json.dumps(SETTINGS).encode(), rng))
        read_reference_config(file, RunConfig())

    def results_values(self, rng):
        """results.json of a finished run, changed."""
        (self.folder / "results.json").write_text(
            json.dumps(spoilt_value(self.results, rng), default=str)
        )
        _finished(RunConfig(), self.folder)


READERS = [name for name, member in vars(Readers).items() if callable(member) and name[0] != "_"]


def tried(readers, name, seed):
    """What one input does: ``taken``, ``refused``, or the error that should not be."""
    try:
        getattr(readers, name)(random.Random(seed))
    except (ValueError, OSError) as error:
        return "refused" if str(error) else "an error without a message"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


def main():
    """Try, count, print; 1 where a reader did something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given, others = parser.parse_args(), 0
    print("| reader | inputs | taken | refused | something else |\n| --- | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        readers = Readers(Path(folder))
        for name in READERS:
            counts, seed = {"taken": 0, "refused": 0}, given.seed
            until = time.monotonic() + given.seconds / len(READERS)
            other = []
            while time.monotonic() < until:
                result = tried(readers, name, seed)
                if result in counts:
                    counts[result] += 1
                else:
                    other.append(f"{name}, seed {seed}: {result}")
                seed += 1
            others += len(other)
            row = (seed - given.seed, counts["taken"], counts["refused"], len(other))
            print(f"| {name.replace('_', ', ')} | {' | '.join(map(str, row))} |", flush=True)
            print(*other[:5], sep="\n", end="\n" if other else "")
    return 1 if others else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    raise SystemExit(main())
