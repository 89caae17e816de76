"""Launchers: jobs that are followed, killed, submitted again; what is gathered."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import submitit
from tiny_runs import TINY, config

from mist_avalanche import cli
from mist_avalanche.runs import Slurm, run, run_methods
from mist_avalanche.runs.launchers import gather
from mist_avalanche.runs.results import clear, why_missing
from mist_avalanche.strategies import SimpleCIL

START = partial(run, resume=True, progress=False)


class Queue:
    """Slurm and submitit in this process: jobs wait, run, or are killed."""

    folder = Path("logs")

    def __init__(self, *, holds=False, kills=0):
        self.holds, self.kills = holds, kills
        self.states, self.calls = {}, {}

    def map_array(self, function, *columns):
        jobs = []
        for arguments in zip(*columns, strict=True):
            job = SimpleNamespace(job_id=f"7_{len(self.states)}")
            self.states[job.job_id] = "PENDING"
            self.calls[job.job_id] = partial(function, *arguments)
            if not self.holds:
                self.start(job.job_id)
            jobs.append(job)
        return jobs

    def start(self, job):
        if self.kills:
            self.kills -= 1
            self.states[job] = "OUT_OF_MEMORY"
        else:
            self.calls[job]()
            self.states[job] = "COMPLETED"

    def job_class(self, folder, job):
        log = SimpleNamespace(stderr=folder / f"{job}.err")
        return SimpleNamespace(paths=log, stderr=lambda: "1\n2\n3\n4\n5\nkilled", stdout=str)


def slurm(queue, **options):
    """The launcher, with a queue in place of Slurm's."""
    with mock.patch.object(Slurm, "make_executor", return_value=queue):
        launcher = Slurm("logs", **options)
    launcher.states = lambda: dict(queue.states)
    return launcher


@pytest.fixture
def quick(monkeypatch, caplog):
    caplog.set_level("INFO", "mist_avalanche")
    monkeypatch.setattr("mist_avalanche.runs.launchers.time.sleep", lambda _: None)


def job_of(folder):
    return json.loads((folder / "job.json").read_text())["id"]


def test_jobs_of_submitit_give_the_numbers_of_local_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, filter(None, sys.path))))
    methods = [(config("ranpac", strategy_args={"n_random_features": 50}), tmp_path / "job")]
    executor = submitit.LocalExecutor(tmp_path / "logs")
    launcher = slurm(executor)

    def states():
        handles = (executor.job_class(tmp_path / "logs", job) for job in launcher._ids.values())
        return {
            h.job_id: "COMPLETED" if h.paths.result_pickle.exists() else "RUNNING" for h in handles
        }

    launcher.states = states
    ((job,),) = run_methods(methods, launcher=launcher)
    here = run(methods[0][0], tmp_path / "here")
    assert job["accuracy"] == here["accuracy"]
    assert job["digests"] == here["digests"]
    assert run_methods(methods, resume=True, launcher=gather) == [[job]]


def test_a_job_takes_the_cores_that_it_has(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    with mock.patch("torch.set_num_threads") as threads:
        assert slurm(Queue())([(config(), tmp_path)], START)[0]["metrics"]["A_T"] > 50
    threads.assert_called_once_with(3)


def test_a_preempted_job_goes_on(tmp_path):
    queue = Queue(holds=True)
    launcher = slurm(queue)
    launcher._submit([(config(), tmp_path)], run)
    (job,) = queue.calls.values()
    again = job.func.checkpoint(*job.args)
    assert (again.function, again.args) == (job.func, job.args)


def test_a_killed_job_is_submitted_again_once(tmp_path, quick, caplog):
    runs = [(config(), tmp_path / "one"), (config("ranpac"), tmp_path / "other")]
    results = slurm(Queue(kills=1))(runs, START)
    assert [r["metrics"]["A_T"] > 50 for r in results] == [True, True]
    assert caplog.text.count("Job 7_0 (") == 1
    assert "1 finished, 0 failed, 0 running, 1 waiting" in caplog.text
    assert "2 finished, 0 failed, 0 running, 0 waiting" in caplog.text

    clear(tmp_path / "one")
    assert slurm(Queue(kills=2))(runs[:1], START) == [None]
    reason = why_missing(tmp_path / "one")
    assert "failed: Job 7_1 ended without results (OUT_OF_MEMORY)" in reason
    assert reason.endswith(f"{Path('logs') / '7_1.err'}:\n2\n3\n4\n5\nkilled")
    assert slurm(Queue())(runs[:1], START)[0]["metrics"] == results[0]["metrics"]
    assert why_missing(tmp_path / "one") is None


def test_a_cancelled_job_is_not(tmp_path, quick, caplog):
    queue = Queue(holds=True)
    launcher = slurm(queue)
    states = mock.Mock(side_effect=[{}, {"7_0": "RUNNING"}, *[{"7_0": "CANCELLED"}] * 2])
    launcher.states = states
    assert launcher([(config(), tmp_path)], START) == [None]
    assert "0 finished, 0 failed, 1 running (7_0), 0 waiting" in caplog.text
    assert "0 finished, 1 failed, 0 running, 0 waiting" in caplog.text
    assert "(CANCELLED)" in why_missing(tmp_path)


def test_an_error_is_that_of_a_local_run(tmp_path, quick):
    failing = mock.patch.object(SimpleCIL, "fit", side_effect=ValueError("no images"))
    with failing, pytest.raises(RuntimeError, match="one failed: ValueError: no images"):
        run_methods([(config(), tmp_path / "one")], launcher=slurm(Queue()))


def test_jobs_in_the_queue_are_followed(tmp_path, quick, caplog):
    queue, runs = Queue(holds=True), [(config(), tmp_path)]
    first = slurm(queue)
    first.states = mock.Mock(side_effect=[{}, KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        first(runs, START)
    assert "1 job(s) stay in the queue: 7_0" in caplog.text
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        slurm(queue)([(config(seed=1), tmp_path)], START)

    second = slurm(queue)
    busy, done = RuntimeError("squeue failed: busy"), {"7_0": "COMPLETED"}
    second.states = mock.Mock(side_effect=[dict(queue.states), busy, done])
    queue.start("7_0")
    assert second(runs, START)[0]["metrics"]["A_T"] > 50
    assert "squeue failed: busy" in caplog.text
    assert "1 finished, 0 failed" in caplog.text
    assert [*queue.states] == [job_of(tmp_path)] == ["7_0"]


def test_gather_names_what_is_missing(tmp_path, capsys):
    common = ("--benchmark", TINY, "--experiences", "3", "--output", str(tmp_path), "--quiet")
    compare = ("compare", "--strategies", "simplecil,ranpac", *common)
    assert cli.main([*compare, "--gather"]) == 1
    assert "simplecil is not finished" in capsys.readouterr().err
    run(config(), tmp_path / "simplecil")
    assert cli.main([*compare, "--gather"]) == 0
    assert "RanPAC, seed 0, is not finished" in capsys.readouterr().out
    assert "RanPAC, seed 0, is not finished" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "ranpac").exists()


def test_parameters_of_jobs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    executor = Slurm(tmp_path, {"partition": "gpu", "max_num_timeout": 9}).executor
    assert executor.parameters["partition"] == "gpu"
    assert (executor.parameters["time"], executor.max_num_timeout) == (720, 9)
    with pytest.raises(ValueError, match="gpu_per_node"):
        Slurm(tmp_path, {"gpu_per_node": 1})
    assert cli.main(["run", "--benchmark", TINY, "--experiences", "3", "--slurm", "time=5"]) == 1
    assert "--launcher slurm" in capsys.readouterr().err


# ---- A real Slurm --------------------------------------------------------------------------------


OWN = """
import time
from pathlib import Path
from mist_avalanche.strategies import SimpleCIL

class Waiting(SimpleCIL):
    def fit(self, features, labels):
        while labels.max() > 2 and Path("wait").exists():
            time.sleep(0.1)
        super().fit(features, labels)
"""


def has_nodes():
    if not shutil.which("sinfo"):
        return False
    states = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False
    )
    return bool({"idle", "mixed", "allocated"} & {*states.stdout.split()})


@pytest.mark.slow
@pytest.mark.skipif(not has_nodes(), reason="needs a Slurm with a node that takes jobs")
def test_comparison_on_slurm(tmp_path, monkeypatch):
    own = tmp_path
    (own / "own.py").write_text(OWN)
    monkeypatch.chdir(own)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, filter(None, sys.path))))
    code = "import sys; from mist_avalanche.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "compare", "--benchmark", TINY, "--experiences", "3"]
    command += ["--strategies", "./own.py:Waiting,ranpac", "--seeds", "2", "--quiet"]
    command += ["--strategy-arg", "n_random_features=50"]
    on_slurm = [*command, "--output", "slurm", "--launcher", "slurm"]
    on_slurm += ["--slurm", "cpus_per_task=1", "--slurm", "time=10"]
    (own / "wait").touch()
    heeds_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also in the background
    first = subprocess.Popen(on_slurm, stderr=subprocess.PIPE, text=True, preexec_fn=heeds_sigint)
    jobs = [own / "slurm" / "waiting" / f"seed-{seed}" for seed in (0, 1)]
    while not all((job / "checkpoint.pt").exists() for job in jobs):
        assert first.poll() is None, first.communicate()
        time.sleep(1)
    first.send_signal(signal.SIGINT)  # the jobs go on
    assert "The same command follows the jobs" in first.communicate()[1]
    assert first.returncode == 130

    ids = [json.loads((job / "job.json").read_text())["id"] for job in jobs]
    subprocess.run(["scontrol", "requeue", ids[0]], check=True)  # as where it is preempted
    subprocess.run(["scancel", "--signal=KILL", ids[1]], check=True)  # as where memory ran out
    while any(Slurm("logs").states()[job] in ("RUNNING", "COMPLETING") for job in ids):
        time.sleep(1)
    subprocess.run(["scontrol", "update", f"job={ids[0]}", "starttime=now"], check=True)
    (own / "wait").unlink()
    subprocess.run(on_slurm, check=True)
    here = [*command, "--output", "local", "--jobs", "1"]
    subprocess.run(here, check=True)
    tables = [(own / place / "comparison.md").read_text() for place in ("slurm", "local")]
    assert tables[0] == tables[1]
    assert json.loads((jobs[0] / "job.json").read_text())["id"] == ids[0]
    assert json.loads((jobs[1] / "job.json").read_text())["id"] != ids[1]
