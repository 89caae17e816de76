"""Options from a file, grids of values, and runs as a file of commands."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY

from mist_avalanche import cli
from mist_avalanche.cli.compare import method, on_grid
from mist_avalanche.runs import RunConfig

SWEEP = {
    "benchmark": TINY,
    "experiences": 3,
    "strategies": ["simplecil", "ranpac+mist"],
    "mist_args": {"tune_epochs": 1, "batch_size": 8},
    "grid": {"mist.lr": ["1e-3", 0.01], "ranpac.n_random_features": [20]},
    "jobs": 1,
    "quiet": True,
}
LABELS = ["simplecil", *(f"ranpac@n_random_features=20+mist@lr={lr}" for lr in (0.001, 0.01))]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mist_avalanche.cli.experiment.write_figures", lambda *_: [])
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, "output": "out"}))
    return tmp_path


def settings_in(folder):
    return json.loads((folder / "results.json").read_text())["config"]


def test_a_sweep_from_a_file(sweep, capsys):
    given = ("compare", "--config", "sweep.yaml", "--seeds", "2", "--save", "again.yaml")
    assert cli.main([*given, "--experiences", "2"]) == 0
    for label, lr in zip(LABELS, (None, 0.001, 0.01), strict=True):
        settings = settings_in(sweep / "out" / label / "seed-1")
        assert settings["experiences"] == 2  # the command line wins
        assert settings["mist_args"].get("lr") == lr
        assert settings["mist_args"].get("tune_epochs") == (None if lr is None else 1)
        assert settings["strategy_args"].get("n_random_features") == (None if lr is None else 20)
    for text in (capsys.readouterr().out, (sweep / "out" / "report.html").read_text()):
        assert "RanPAC (n_random_features=20) + MIST (lr=0.01)" in text
        assert "compared on test images" in text

    (sweep / "other").mkdir()
    (sweep / "out").rename(sweep / "other" / "out")
    again = yaml.safe_load((sweep / "again.yaml").read_text())
    assert again["grid"] == {"mist.lr": [0.001, 0.01], "ranpac.n_random_features": [20]}
    assert cli.main(["compare", "--config", "again.yaml"]) == 0
    tables = [(folder / "out" / "comparison.md").read_text() for folder in (sweep, sweep / "other")]
    assert tables[0] == tables[1]


def test_a_dry_run_saves_the_options_and_runs_nothing(sweep, capsys):
    options = ("--lr", "0.01", "--mist-arg", "lr=0.02", "--slurm", "time=5", "--dry-run")
    assert cli.main(["run", "--benchmark", TINY, "--mist", *options, "--save", "a.yaml"]) == 0
    saved = yaml.safe_load((sweep / "a.yaml").read_text())
    assert {k: saved[k] for k in ("benchmark", "mist", "mist_args", "slurm")} == {
        "benchmark": TINY,
        "mist": True,
        "mist_args": {"lr": 0.02},
        "slurm": {"time": 5},
    }
    assert "dry_run" not in saved
    assert not (sweep / "results").exists()


def test_commands_one_per_line(sweep, capsys):
    compare = ("compare", "--config", "sweep.yaml", "--logger", "csv")
    assert cli.main([*compare, "--plan", "runs.txt"]) == 0
    assert "3 commands: runs.txt" in capsys.readouterr().out
    lines = (sweep / "runs.txt").read_text().splitlines()
    for line in lines[:-1]:
        assert cli.main([*shlex.split(line)[1:], "--quiet"]) == 0
    assert (sweep / "out" / "simplecil" / "metrics.csv").exists()
    assert cli.main([*compare, "--plan", "more.txt"]) == 0
    assert (sweep / "more.txt").read_text().splitlines() == lines[-1:]
    assert cli.main([*compare, "--gather"]) == 0
    shown = capsys.readouterr().out
    assert "RanPAC (n_random_features=20) + MIST (lr=0.01), seed 0, is not finished" in shown
    assert cli.main([*shlex.split(lines[-1])[1:], "--quiet"]) == 0
    assert cli.main([*compare, "--gather"]) == 0
    gathered = (sweep / "out" / "comparison.md").read_text()
    assert cli.main([*compare, "--output", "here"]) == 0
    assert (sweep / "here" / "comparison.md").read_text() == gathered


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("strategys: [ranpac]", "no option 'strategys'. Options are strategies,"),
        ("- ranpac", "not a mapping"),
        ("a: [", "options.yaml: while parsing"),
        ("grid: {ranpac.n_random_features: [1]}\nstrategies: simplecil", "no method has it"),
        ("grid: {mist.lr: [1]}\nstrategies: simplecil", "no method has it"),
        ("grid: {simplecil.depth: [1]}\nstrategies: simplecil", "no argument 'depth'"),
        ("grid: {mist.lr: [1, 1]}\nstrategies: simplecil+mist", "Several methods"),
        ("launcher: pbs", "'local' or 'slurm', got 'pbs'"),
    ],
)
def test_files_that_cannot_be(tmp_path, capsys, content, said):
    (tmp_path / "options.yaml").write_text(content)
    assert cli.main(["compare", "--config", str(tmp_path / "options.yaml"), "--quiet"]) == 1
    assert said in capsys.readouterr().err


def test_the_file_in_the_guide(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (content,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "sweep.yaml").write_text(content)
    given = ("compare", "--config", str(tmp_path / "sweep.yaml"))
    assert cli.main([*given, "--launcher", "local", "--dry-run"]) == 0
    assert "ranpac+mist@lr=0.01" in capsys.readouterr().out


def test_every_combination_is_a_method():
    names = ("ranpac", "ranpac+mist+joined+drift", "slca")
    methods = [method(name, RunConfig()) for name in names]
    grid = {"mist.lr": [0.1, 1e20], "ranpac.seed": [1, 2], "mist.view": "a/b"}
    found = on_grid(methods, grid)
    labels = [config.label for config in found]
    assert labels[:2] == ["ranpac@seed=1", "ranpac@seed=2"]
    assert labels[2] == "ranpac@seed=1+mist@lr=0.1,view=a-b+joined+drift"
    assert labels[5] == "ranpac@seed=2+mist@lr=1e20,view=a-b+joined+drift"
    assert labels[6:] == ["slca"]
    assert found[5].mist_args == {"lr": 1e20, "view": "a/b"}
    assert found[5].strategy_args == {"joined": True, "seed": 2}
    assert found[6].strategy_args == {}
