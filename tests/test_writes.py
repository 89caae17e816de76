"""A disk that is full at each kind of write of a run: nothing half written, nothing lost."""

import errno
import json
import os
from pathlib import Path

import pytest
from kill import Few
from safetensors.torch import load_file

from mist_avalanche import runner
from mist_avalanche._checksummed import _Hashing, read_checksummed
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.prediction import DELTA, HEAD

MIST = {"tune_epochs": 1, "later_epochs": 1, "projection_epochs": 0, "batch_size": 16}
CONFIG = runner.RunConfig(
    benchmark="few", mist=True, mist_args=MIST, experiences=50, checkpoint_every=0
)
FILES = ("experience-0000", "experience-0001", "tuning-0000-000001", "tuning-0000-000002")
FILES += (DELTA, HEAD, "results.json")


@pytest.fixture(autouse=True)
def _few(monkeypatch, glyphs):
    monkeypatch.setattr(runner, "BENCHMARKS", {"few": lambda _: Few(glyphs, 2)})


@pytest.fixture(scope="module")
def glyphs():
    return SplitGlyphs(50)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, glyphs):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "BENCHMARKS", {"few": lambda _: Few(glyphs, 2)})
        results = runner.run(CONFIG, folder, progress=False)
    return results["metrics"], contents(folder)


def contents(folder):
    return [(folder / name).read_bytes() for name in (DELTA, HEAD)]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def fail(patch, name, stage):
    """Let one stage of writing the file of a name fail."""
    replace, flush, write = os.replace, os.fsync, _Hashing.write

    def of_name(file):
        return name in Path(file).name

    if stage == "renaming":
        patch.setattr(os, "replace", lambda a, b: full() if of_name(b) else replace(a, b))
    elif stage == "flushing":
        patch.setattr(
            os,
            "fsync",
            lambda f: full() if of_name(os.readlink(f"/proc/self/fd/{f}")) else flush(f),
        )
    else:
        patch.setattr(
            _Hashing,
            "write",
            lambda self, part: full() if of_name(self.file.name) else write(self, part),
        )


CASES = [(name, "renaming") for name in FILES]
CASES += [(name, "flushing") for name in FILES[1::3]]
CASES += [(name, "writing") for name in FILES[:4:2]]


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_a_disk_that_is_full_loses_nothing(name, stage, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, name, stage)
        with pytest.raises(OSError, match=rf"No space left on the disk of .*{name}.* did not fit"):
            runner.run(CONFIG, tmp_path, progress=False)
    assert not list(tmp_path.rglob(".*"))
    for file in tmp_path.rglob("*.pt"):
        read_checksummed(file)
    for file in tmp_path.rglob("*.safetensors"):
        load_file(file)
    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text())
    metrics, files = whole
    assert runner.run(CONFIG, tmp_path, resume=True, progress=False)["metrics"] == metrics
    assert contents(tmp_path) == files
    assert not (tmp_path / "checkpoints").exists()
