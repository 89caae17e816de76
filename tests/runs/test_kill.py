"""Runs and their workers that are killed, told to stop, or lose their parent."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import psutil
import pytest
import torch

from mist_avalanche._support import signals as _signals
from mist_avalanche._support.signals import Terminated, ending_cleanly, pausing, stop_asked
from mist_avalanche.runs import experiments

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(("strategy", "kills"), [("ranpac", 3), ("simplecil", 1), ("naive", 2)])
def test_runs_that_are_ended_go_on_with_the_same_bits(strategy, kills):
    kill = [sys.executable, str(TESTS / "kill.py"), "--experiences", "2", "--seed", "1"]
    kill += ["--strategy", strategy, "--kills", str(kills)]
    done = subprocess.run(
        [*kill, "--signals", "KILL,TERM,INT"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same bits" in done.stdout
    assert " 0 runs that ended otherwise" in done.stdout


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


TWICE = f"""
import os, runpy, signal
signals = runpy.run_path({_signals.__file__!r})
with signals["ending_cleanly"](), signals["pausing"]():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
PARENT = f"""
import multiprocessing, os, runpy, time

def work():
    runpy.run_path({_signals.__file__!r})["follow_parent"]()
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(600)
"""


def test_a_second_signal_ends_at_once():
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert "once more to stop at once" in done.stderr


def test_workers_end_with_their_parent(tmp_path, monkeypatch):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE)
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    worker.wait(timeout=20)
    called = []
    monkeypatch.setattr(experiments, "follow_parent", lambda: called.append(True))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    experiments._start_worker(torch.get_num_threads(), None, None)
    assert called
