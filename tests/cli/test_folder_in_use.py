import json
import re
from unittest import mock

import pytest
from tiny_runs import tiny_benchmark

from mist_avalanche import cli
from mist_avalanche.runs import RunConfig, experiments, runner
from mist_avalanche.strategies import SimpleCIL

METHODS = ("--strategies", "simplecil,simplecil+mist", "--experiences", "3", "--batch-size", "8")
COMMON = ("compare", *METHODS, "--jobs", "1")


@pytest.fixture(autouse=True)
def tiny():
    with tiny_benchmark():
        yield


def compare(folder, *more):
    return cli.main([*COMMON, "--output", str(folder), *more])


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_other_settings_are_refused_before_the_first_run(dry, tmp_path, capsys, monkeypatch):
    assert compare(tmp_path, "--tune-epochs", "1", "--quiet") == 0
    (tmp_path / "simplecil" / "results.json").unlink()
    monkeypatch.setattr(experiments, "run_in_plan", None)  # so that none can begin
    assert compare(tmp_path, "--tune-epochs", "2", "--resume", *dry) == 1
    error = capsys.readouterr().err
    assert "simplecil+mist holds a run with other settings (mist_args.tune_epochs: 1" in error
    assert not [*tmp_path.rglob("error.txt")]


def test_other_settings_of_a_stopped_run_are_refused_too(tmp_path, capsys):
    with mock.patch.object(runner, "save_classifier", side_effect=ZeroDivisionError):
        assert compare(tmp_path, "--tune-epochs", "1", "--quiet") == 1
    kept = tmp_path / "simplecil+mist" / "checkpoints"
    assert [*kept.glob("experience-*.pt")]
    assert compare(tmp_path, "--tune-epochs", "2", "--quiet", "--resume") == 1
    assert "with other settings (mist_args.tune_epochs: 1" in capsys.readouterr().err
    for file in kept.glob("experience-*.pt"):
        file.write_bytes(file.read_bytes()[:-1])  # damaged: for the run itself to report
    experiments.check_same_settings(RunConfig(experiences=3, mist=True), kept.parent)


def test_runs_that_failed_are_named_in_terminal_and_page(tmp_path, capsys, monkeypatch):
    def fail(self, *_):
        if any(type(p).__name__ == "MISTPlugin" for p in self.plugins):
            raise ValueError("no room for <features>")
        return fit(self, *_)

    fit = SimpleCIL.fit
    monkeypatch.setattr(SimpleCIL, "fit", fail)
    pages = []
    with mock.patch("mist_avalanche.cli.run.write_page", lambda *_, **more: pages.append(more)):
        assert compare(tmp_path, "--seeds", "2", "--tune-epochs", "1") == 1
    shown = capsys.readouterr()
    lines = [
        f"SimpleCIL + MIST, seed {seed}, failed: ValueError: no room for <features>"
        for seed in (0, 1)
    ]
    assert "\n".join(lines) in shown.out
    assert pages[0]["failed"] == lines
    assert "run 3 of 4, simplecil+mist, seed 0: failed" in shown.out
    assert "2 run(s) failed; --resume" in shown.err
    monkeypatch.setattr(SimpleCIL, "fit", fit)
    assert compare(tmp_path, "--seeds", "2", "--tune-epochs", "1", "--resume") == 0
    assert ", failed" not in capsys.readouterr().out
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["simplecil+mist"]["seeds"] == 2


def test_the_plan_says_what_mist_and_baselines_use(tmp_path, capsys):
    arguments = ["--strategies", "naive,l2p+mist", "--backbone", "vit_base_patch16_224"]
    arguments += ["--benchmark", "cub200", "--output", str(tmp_path / "x"), "--dry-run"]
    assert cli.main(["compare", *arguments]) == 0
    shown = capsys.readouterr().out
    assert re.search("naive +lr=0.003, train_epochs=10", shown)
    assert "MIST: tune_on=first, lr=0.0001, tune_epochs=20, batch_size=48" in shown


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys):
    from mist_avalanche.cli import command

    def broken(_args):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(command.os, "dup2", lambda *_: None)
    monkeypatch.setattr("mist_avalanche.cli.data.execute", broken)
    assert cli.main(["data", "list"]) == 0
    assert capsys.readouterr().err == ""
