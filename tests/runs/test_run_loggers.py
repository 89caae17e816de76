"""Where a run sends its metrics: the files, what a resumed run adds, and what is refused."""

import csv
import sys

import pytest
from test_resume import run_and_stop
from tiny_runs import TINY, config

from mist_avalanche import cli
from mist_avalanche.runs import run

MIST = {"MIST/selected_fraction", "MIST/tuning_loss", "MIST/updated_fraction"}


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [*csv.DictReader(file)]


def test_csv_has_every_number(tmp_path):
    results = run(config(mist=True), tmp_path, loggers=["csv"])
    found = rows(tmp_path)
    assert {row["name"] for row in found} > MIST
    last = [row["value"] for row in found if row["name"].startswith("Top1_Acc_Stream")][-1]
    assert float(last) == pytest.approx(results["metrics"]["A_T"] / 100, abs=1e-4)
    steps = [int(row["step"]) for row in found]
    assert steps == sorted(steps)
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_keeps_the_rows_and_a_new_one_does_not(tmp_path):
    run(config(mist=True), tmp_path / "whole", loggers=["csv"])
    whole, folder = rows(tmp_path / "whole"), tmp_path / "stopped"
    run_and_stop(config(mist=True), folder, loggers=["csv"])
    run(config(mist=True), folder, resume=True, loggers=["csv"])
    assert rows(folder)[: len(whole)] == whole
    assert all(row in whole for row in rows(folder))  # of the experience that was repeated
    run(config(mist=True), folder, overwrite=True, loggers=["csv"])
    assert rows(folder) == whole


def test_loggers_change_no_number(tmp_path):
    both = run(config(mist=True), tmp_path / "both", loggers=["csv", "tensorboard"])
    alone = run(config(mist=True), tmp_path / "alone", loggers=["none"])
    for part in ("accuracy", "mist"):
        assert both[part] == alone[part]
    assert [*(tmp_path / "both" / "tensorboard").iterdir()]
    assert {p.name for p in (tmp_path / "alone").iterdir()} == {"results.json", "checkpoint.pt"}


@pytest.mark.parametrize(
    ("logger", "says"),
    [
        ("csv,tensorbord", "'tensorboard' or 'csv' or 'wandb' or 'none', got 'tensorbord'"),
        ("csv,wandb", "pip install wandb"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_logger_that_is_not_there_is_named_first(
    tmp_path, monkeypatch, capsys, logger, says, more
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    output = tmp_path / "out"
    arguments = ["run", "--benchmark", TINY, "--experiences", "3", *more, "--output", str(output)]
    assert cli.main([*arguments, "--logger", logger]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not output.exists()


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    log, seen = wandb.Run.log, []

    def watched(self, data, step):
        seen.append((self.id, step, *data))
        log(self, data, step=step)

    monkeypatch.setattr(wandb.Run, "log", watched)
    settings = config(mist=True, mist_args={"tune_on": "every"}, drift_compensation=True)
    run_and_stop(settings, tmp_path, loggers=["wandb"])
    assert wandb.run is None
    run(settings, tmp_path, resume=True, loggers=["wandb"])
    assert wandb.run is None
    results = run(settings, tmp_path / "b", loggers=["wandb"])
    assert results["accuracy"] == run(settings, tmp_path / "c")["accuracy"]
    folders = [*tmp_path.glob("wandb/offline-run-*"), *tmp_path.glob("b/wandb/offline-run-*")]
    resumed, whole = seen[0][0], seen[-1][0]
    assert sorted(f.name[-8:] for f in folders) == sorted([resumed, resumed, whole])
    for run_id in (resumed, whole):
        assert {name for found, _, name in seen if found == run_id} > MIST
    steps = [step for found, step, _ in seen if found == whole]
    assert steps == sorted(steps)  # wandb ignores lower ones
