"""The command: what it offers, runs and writes, and how it fails."""

import json
import os
import re
import subprocess
import sys

import pytest
from data_layouts import class_folders, cub, photos
from PIL import Image
from tiny_runs import TINY, config

import mist_avalanche
from mist_avalanche import cli
from mist_avalanche.cli.options import setting
from mist_avalanche.method.ablations import ABLATIONS
from mist_avalanche.runs import run
from mist_avalanche.strategies import SimpleCIL
from mist_avalanche.strategies.registry import STRATEGIES

COMMON = ("--benchmark", TINY, "--experiences", "3", "--jobs", "1", "--quiet")
SHORT = ("--tune-epochs", "1", "--batch-size", "8")
HEAVY = {"torch", "torchvision", "timm", "avalanche", "matplotlib", "scipy", "pandas"}


@pytest.fixture
def no_figures(monkeypatch):
    """They take longer than the runs."""
    monkeypatch.setattr("mist_avalanche.cli.experiment.write_figures", lambda *_: [])


def error_of(capsys, *arguments):
    assert cli.main([*arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version"], mist_avalanche.__version__),
        (["--help"], "ablate"),
        (["run", "--help"], "--drift-compensation"),
        (["compare", "--help"], "streaming_lda"),
        (["list", "--help"], "papers"),
    ],
    ids=" ".join,
)
def test_help_does_not_wait_for_torch(arguments, says):
    code = (
        "import sys; from mist_avalanche.cli import main\n"
        "try: main()\nexcept SystemExit: print('MODULES', *sys.modules)"
    )
    command = [sys.executable, "-c", code, *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown, _, modules = shown.partition("MODULES")
    assert says in shown
    assert not HEAVY & {*modules.split()}


def test_every_command_has_help(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0
        assert f"{command}: " in capsys.readouterr().out


def test_list_has_every_strategy(capsys):
    assert cli.main(["list"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    shown = {name: row for name, *row in (re.split(r" {2,}", row.strip()) for row in rows)}
    assert shown.keys() == STRATEGIES.keys()
    assert shown["l2p"] == ["L2P", "arXiv 2112.08654", "ViT", "prompts, keys", "first"]
    assert shown["streaming_lda"][-1] == "first"
    assert all(info.stores for info in STRATEGIES.values())


def test_settings():
    assert setting("lr=1e-3") == ("lr", 1e-3)
    assert setting("alphabets=Greek,Latin") == ("alphabets", ["Greek", "Latin"])
    assert setting("select_by=random") == ("select_by", "random")


@pytest.mark.usefixtures("no_figures")
def test_run(tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["run", "--mist", *SHORT, "--mist-arg", "drop_rate=0.5", "--select-rate", "0.02"]
    assert cli.main([*arguments, *COMMON, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "SimpleCIL + MIST" in shown
    assert str(output / "report.html") in shown
    found = json.loads((output / "results.json").read_text())["config"]["mist_args"]
    assert (found["tune_epochs"], found["drop_rate"], found["select_rate"]) == (1, 0.5, 0.02)
    assert "finished run" in error_of(capsys, *arguments, *COMMON, "--output", str(output))
    assert cli.main([*arguments, *COMMON, "--output", str(output), "--resume"]) == 0


@pytest.mark.usefixtures("no_figures")
def test_compare_with_a_strategy_of_ones_own(tmp_path, monkeypatch, capsys):
    code = "from mist_avalanche.strategies import SimpleCIL\nclass Mine(SimpleCIL): ...\n"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    strategies = "simplecil,./mine.py:Mine+mist,naive"
    arguments = ["compare", *COMMON, *SHORT, "--strategies", strategies, "--output", "out"]
    assert cli.main([*arguments, "--strategy-arg", "train_epochs=1"]) == 0
    assert (tmp_path / "out" / "comparison.md").read_text().startswith("| method")
    folders = {f.parent.name: f for f in (tmp_path / "out").glob("*/results.json")}
    assert {*folders} == {"simplecil", "mine+mist", "naive"}
    found = {name: json.loads(f.read_text())["config"] for name, f in folders.items()}
    assert found["naive"]["strategy_args"]["train_epochs"] == 1
    assert "train_epochs" not in found["simplecil"]["strategy_args"]
    assert found["mine+mist"]["mist_args"]["tune_epochs"] == 1
    assert found["simplecil"]["mist_args"] == {}
    assert "mist-avalanche compare" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("no_figures")
def test_ablate(tmp_path):
    arguments = ["ablate", *COMMON, *SHORT, "--first", "1", "--strategies", "simplecil"]
    assert cli.main([*arguments, "--output", str(tmp_path)]) == 0
    rows = (tmp_path / "ablations.md").read_text().splitlines()
    assert len(rows) == 2 + 2 + len(ABLATIONS) + 2
    for name, ablation in ABLATIONS.items():
        file = tmp_path / f"simplecil+{name}" / "results.json"
        found = json.loads(file.read_text())["config"]["mist_args"]
        assert ablation.mist_args.items() <= found.items()
    assert ABLATIONS["dense"].changes in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_fails_is_named_and_run_again(tmp_path, capsys, monkeypatch):
    def fail(self, *arguments):
        if any(type(p).__name__ == "MISTPlugin" for p in self.plugins):
            raise ValueError("no room for <features>")
        return fit(self, *arguments)

    fit = SimpleCIL.fit
    arguments = ["compare", *COMMON, *SHORT, "--strategies", "simplecil,simplecil+mist"]
    arguments += ["--output", str(tmp_path)]
    monkeypatch.setattr(SimpleCIL, "fit", fail)
    assert cli.main(arguments) == 1
    shown = capsys.readouterr()
    assert "SimpleCIL + MIST, seed 0, failed: ValueError: no room for <features>" in shown.out
    assert "--resume" in shown.err
    assert "no room for &lt;features&gt;" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(SimpleCIL, "fit", fit)
    assert cli.main([*arguments, "--resume"]) == 0
    assert "failed" not in capsys.readouterr().out


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, capsys):
    output = tmp_path / "out"
    cub(tmp_path / "CUB_200_2011", photos())
    arguments = ["--benchmark", "cub200", "--backbone", "vit_base_patch16_224", "--seeds", "2"]
    arguments += ["--strategies", "l2p+mist,ranpac", "--output", str(output), "--dry-run"]
    arguments += ["--experiences", "3", "--dataset-root"]
    assert cli.main(["compare", *arguments, str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for part in ("cub200", "published", "224", "0, 1", str(output), "n_random_features=10000"):
        assert part in shown
    assert "tune_on=first, lr=0.0001, tune_epochs=20, batch_size=48" in shown
    assert cli.main(["compare", *arguments, str(tmp_path / "gone")]) == 1
    assert "No copy of CUB-200-2011 in" in capsys.readouterr().err
    assert not output.exists()


def test_a_name_that_is_not_utf_8_ends_no_run(tmp_path, capsys):
    names = os.listdir(os.fsencode(class_folders(tmp_path / "cakes", photos(), ())))
    os.rename(*(os.path.join(os.fsencode(tmp_path), b"cakes", n) for n in (names[0], b"cr\xe8me")))
    arguments = ["run", "--benchmark", "folder", "--dataset-root", str(tmp_path / "cakes")]
    arguments += ["--normalize", "none", "--experiences", "2", "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert "A_T" in (tmp_path / "out" / "report.html").read_text()
    assert "Report: " in capsys.readouterr().out


def test_a_console_that_cannot_show_a_name(tmp_path):
    run(config("simplecil"), tmp_path / "out", progress=False)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    results["class_names"][:] = ["日本"] * len(results["class_names"])
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    command = [sys.executable, "-m", "mist_avalanche", "predict", "--run", "out", "image.png"]
    cp1252 = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=cp1252, capture_output=True, check=False)
    assert (done.returncode, b"??" in done.stdout) == (0, True), done.stderr


@pytest.mark.usefixtures("no_figures")
def test_a_figure_that_cannot_be_drawn_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mist_avalanche.cli.experiment.write_figures", lambda *_: 1 / 0)
    assert cli.main(["run", *COMMON, "--output", str(tmp_path / "out")]) == 0
    assert "the report could not be written: division by zero" in caplog.text
    assert (tmp_path / "out" / "results.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--strategy", "simplecli"], "simplecli"),
        (["run", "--lr", "0.1"], "--mist"),
        (["run", "--mist", "--mist-arg", "lrr=0.1"], "lrr"),
        (["run", "--dry-run", "--mist", "--drop-rate", "2"], "`drop_rate`"),
        (["run", "--device", "tpu"], "tpu"),
        (["run", "--config", "nowhere.json"], "nowhere.json"),
        (["compare", "--strategies", "simplecil+mists"], "+mists"),
        (["compare", "--strategies", "simplecil,simplecil"], "'simplecil'"),
        (["compare", "--strategies", "simplecil,naive+drift"], "drift"),
        (["compare", "--strategy-arg", "mem_sise=3"], "mem_sise"),
        (["ablate", "--strategies", "simplecil+mist"], "simplecil+mist"),
        (["suggest", "--lrs", "0.1,x"], "x"),
        (["predict", "--run", "nowhere", "a.png"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_one_line(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert named in error_of(capsys, *arguments)
    assert not any(tmp_path.iterdir())


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def stop(_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("mist_avalanche.cli.run.execute", stop)
    assert cli.main(["run"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_suggest(capsys):
    arguments = ["suggest", *SHORT, "--lrs", "0.001", "--quiet", "--experiences"]
    assert "2 classes" in error_of(capsys, *arguments, "3", "--benchmark", TINY)
    assert cli.main([*arguments, "25"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["frozen", "0.001"]
    assert lines[5].startswith("16 images were held out")
    assert lines[6].startswith(("Use --lr", "No learning rate differs clearly"))


def test_options_of_mist_say_whose_they_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--lr VALUE short for --mist-arg lr=VALUE, for MISTPlugin's tuning" in shown
    assert "--batch-size VALUE short for --mist-arg batch_size=VALUE" in shown
