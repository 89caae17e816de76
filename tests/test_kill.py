"""Runs and their workers that are killed, told to stop, or lose their parent."""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from kill import few_glyphs, outcome, trial

from mist_avalanche import runner
from mist_avalanche._signals import Terminated, ending_cleanly, pausing, stop_asked


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A whole run's numbers, and its seconds."""
    benchmarks = runner.BENCHMARKS
    few_glyphs()
    folder = tmp_path_factory.mktemp("kill") / "whole"
    began = time.monotonic()
    trial(folder, [])
    yield outcome(folder), time.monotonic() - began
    runner.BENCHMARKS = benchmarks


@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_run_ends_with_the_same_bits(uninterrupted, tmp_path, kills):
    wanted, seconds = uninterrupted
    draw = random.Random(kills)
    codes, _ = trial(tmp_path / "run", [draw.uniform(0.2, 0.8) * seconds for _ in range(kills)])
    assert codes[0] == -signal.SIGKILL
    assert outcome(tmp_path / "run") == wanted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_and_goes_on(uninterrupted, tmp_path, number):
    wanted, seconds = uninterrupted
    codes, left = trial(tmp_path / "run", [0.5 * seconds], number)
    assert codes == [128 + number]
    assert left[0] != "finished"
    assert "--resume goes on" in (tmp_path / "run" / "stderr.txt").read_text()
    assert outcome(tmp_path / "run") == wanted


def test_a_signal_waits_for_the_end_of_a_step():
    with ending_cleanly():
        with pausing():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_asked() == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert stop_asked() is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(Terminated), ending_cleanly():
        os.kill(os.getpid(), signal.SIGTERM)


TWICE = """
import os, signal
from mist_avalanche._signals import ending_cleanly, pausing
with ending_cleanly(), pausing():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
PARENT = """
import multiprocessing, os, time
from mist_avalanche.experiments import _start_worker

def work(value):
    _start_worker(1, value)
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    worker = spawn.Process(target=work, args=(spawn.Value("i", 0),))
    worker.start()
    time.sleep(600)
"""


def test_a_second_signal_ends_at_once():
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert "once more to stop at once" in done.stderr


def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE)
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    worker.wait(timeout=20)
