"""A small run whose disk is full at one write or another: whole files, and the same end."""

import json
from functools import partial

import pytest
import torch
from full_disk import FULL, KINDS, FullDisk
from kill import outcome
from safetensors.torch import load_file
from tiny_runs import MIST, results, tiny, tiny_benchmark

from mist_avalanche._support.checksummed import read_checksummed, write_checksummed
from mist_avalanche.reports.page import write_page
from mist_avalanche.reports.report import plot_accuracy
from mist_avalanche.reports.tables import write_tables
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.runner import run

CONFIG = RunConfig(mist=True, mist_args={**MIST, "tune_epochs": 1}, checkpoint_every=0)
WRITES = 10  # of many hundred, at which a disk is full


TENSORS = {"large": torch.rand(300_000), "small": torch.rand(3)}


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with tiny_benchmark(partial(tiny, n_experiences=2)):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the uninterrupted run ends with, and how often it calls what."""
    folder = tmp_path_factory.mktemp("whole")
    with FullDisk() as disk:
        run(CONFIG, folder, progress=False)
    return outcome(folder), disk.calls


@pytest.fixture(scope="module")
def resumed():
    """What files were left where a run went on."""
    return []


def check_files(folder):
    """Every file that has its name is whole, and nothing else is left; the names."""
    readers = {".pt": read_checksummed, ".safetensors": load_file}
    readers[".json"] = lambda file: json.loads(file.read_text())
    for file in folder.rglob("*"):
        assert file.suffix != ".tmp"
        if file.suffix in readers:
            readers[file.suffix](file)
    return sorted(file.name for file in folder.rglob("*") if file.suffix in readers)


@pytest.mark.parametrize("kind", KINDS)
def test_full_at_any_write(kind, whole, resumed, tmp_path):
    wanted, calls = whole
    step = calls[kind] // WRITES if kind == "write" else 1
    numbers = range(1, calls[kind] + 1, step)
    assert len(numbers) >= 7
    for at in numbers:
        folder = tmp_path / str(at)
        with (
            FullDisk(kind, at),
            pytest.raises(
                OSError, match=r"No space left on the disk of .* did not fit\. Make room"
            ),
        ):
            run(CONFIG, folder, progress=False)
        left = check_files(folder)
        if left in resumed:
            continue
        resumed.append(left)
        run(CONFIG, folder, resume=True, progress=False)
        check_files(folder)
        assert outcome(folder) == wanted, (kind, at)
        assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_what_fails_is_what_is_raised(error, tmp_path):
    with FullDisk() as disk:
        write_checksummed(TENSORS, tmp_path / "whole.pt")
    for at in range(1, disk.calls["write"] + 1):
        with FullDisk("write", at, error), pytest.raises(type(error)):
            write_checksummed(TENSORS, tmp_path / "file.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["whole.pt"]


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_report_that_does_not_fit_leaves_the_earlier_one(tmp_path):
    runs = {"a": [results()]}
    for write in (
        lambda: write_page(runs, tmp_path / "report.html", "a"),
        lambda: write_tables(runs, tmp_path, "comparison"),
        lambda: plot_accuracy(runs, tmp_path),
    ):
        write()
        before = contents(tmp_path)
        with FullDisk("write", 1), pytest.raises(OSError, match="did not fit"):
            write()
        assert contents(tmp_path) == before
