import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mist_avalanche.cli import command as cli
from mist_avalanche.cli import options
from mist_avalanche.models.defaults import DEFAULTS
from mist_avalanche.reports.pictures import CONFUSIONS
from mist_avalanche.runs import experiments
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.experiments import run_seeds
from mist_avalanche.runs.runner import choose_device, run
from mist_avalanche.strategies.names import ABLATIONS, COMPUTED_STRATEGIES, STRATEGIES

RENDERED = {}
QUICK = {"benchmark": "glyphs", "experiences": 50}


@pytest.fixture(autouse=True)
def few_glyphs(monkeypatch):
    """Four experiences of the 50: whole runs in a second."""
    from mist_avalanche.runs import runner

    class Few:
        def __init__(self, benchmark):
            self.benchmark = benchmark

        def __getattr__(self, name):
            value = getattr(self.benchmark, name)
            return value[:4] if name.endswith("_stream") else value

    def few(config):
        key = (config.experiences, config.order_seed)
        if key not in RENDERED:
            RENDERED[key] = Few(glyphs(config))
        return RENDERED[key]

    glyphs = runner.BENCHMARKS["glyphs"]
    monkeypatch.setattr(runner, "BENCHMARKS", {"glyphs": few})


@pytest.mark.tensorboard
def test_results_have_their_schema_and_repeat(tmp_path):
    config = RunConfig(**QUICK, mist=True, mist_args={"tune_epochs": 1})
    results = run(config, tmp_path / "a", progress=False)
    again = run(config, tmp_path / "b", progress=False)
    written = json.loads((tmp_path / "a" / "results.json").read_text())
    assert written["metrics"] == results["metrics"] == again["metrics"]
    assert written["schema"] == 1
    assert set(written["metrics"]) == {"A_T", "A_bar", "A_new", "forgetting"}
    assert [len(row) for row in written["accuracy"]] == [1, 2, 3, 4]
    assert written["config"]["mist_args"]["tune_epochs"] == 1
    assert written["config"]["mist_args"]["tune_on"] == "first"  # the backbone's default
    assert written["config"]["split"] == "rendered, data_seed 0"
    assert len(written["confusion"]["classes"][0]) == 3
    assert 0 < written["mist"]["selected_fraction"] <= 0.05
    assert [len(losses) for losses in written["mist"]["losses"]] == [1]
    assert written["parameters"]["trainable"] <= written["parameters"]["total"]
    assert written["memory"] is None or written["memory"] > 2**20
    assert written["timing"]["total"] > 0
    assert "torch" in written["environment"]
    assert (tmp_path / "a" / "figures" / "accuracy.png").stat().st_size > 5000
    board = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    images = board.Tags()["images"]
    assert {tag.split("/")[0] for tag in images} == {
        "Methods",
        "Accuracy by experience",
        CONFUSIONS,
        "Where MIST may move the backbone",
    }
    assert written["parameters"]["updated"] <= 0.05 * written["parameters"]["trainable"]
    assert cli.main(["inspect", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "layers.png").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_of_the_command(tmp_path, strategy):
    quick = {} if strategy in COMPUTED_STRATEGIES else {"train_epochs": 1}
    if strategy == "ranpac":
        quick = {"n_random_features": 300}
    mist = {"tune_epochs": 1, "projection_epochs": 0}
    config = RunConfig(**QUICK, strategy=strategy, strategy_args=quick, mist=True, mist_args=mist)
    if strategy == "scr":
        with pytest.raises(ValueError, match="another classifier in evaluation"):
            run(config, tmp_path, progress=False)
        config = replace(config, mist=False, mist_args={})
    results = run(config, tmp_path, progress=False)
    assert len(results["accuracy"]) == 4
    confusion = np.array(results["confusion"]["experiences"])
    assert (confusion.sum(axis=1) <= results["test_images"]).all()  # less those of unseen classes
    last = np.array(results["accuracy"][-1]) * results["test_images"] / 100
    assert (confusion.diagonal() >= last.round()).all()
    assert results["parameters"]["updated"] > 0


def test_gradient_strategies_and_seeds(tmp_path):
    results = run_seeds(RunConfig(**QUICK, strategy="naive"), tmp_path, 2, progress=False)
    assert results[0]["metrics"]["A_new"] > 60
    summary = json.loads((tmp_path / "summary.json").read_text())
    a_t = [r["metrics"]["A_T"] for r in results]
    assert summary["metrics"]["A_T"]["mean"] == pytest.approx(np.mean(a_t))
    assert summary["metrics"]["A_T"]["std"] == pytest.approx(np.std(a_t, ddof=1))
    assert (tmp_path / "seed-1" / "results.json").exists()


def test_jobs_keep_the_order(tmp_path):
    config = RunConfig(experiences=2)
    side_by_side = run_seeds(config, tmp_path / "j", 2, vary_order=True, jobs=2, progress=False)
    assert [r["config"]["seed"] for r in side_by_side] == [0, 1]
    one = RunConfig(experiences=2, seed=1, order_seed=1994)
    alone = run(one, tmp_path / "1", progress=False)
    assert alone["metrics"]["A_T"] == pytest.approx(side_by_side[1]["metrics"]["A_T"], abs=0.5)
    with pytest.raises(ValueError, match="at least one job"):
        run_seeds(config, tmp_path, 1, jobs=0)
    assert 1 <= experiments.default_jobs("cpu") <= 8


def test_resume_keeps_finished_runs_and_refuses_other_settings(tmp_path):
    first = run(RunConfig(**QUICK), tmp_path, progress=False)
    stamp = (tmp_path / "results.json").stat().st_mtime_ns
    assert (
        run(RunConfig(**QUICK), tmp_path, resume=True, progress=False)["metrics"]
        == first["metrics"]
    )
    assert (tmp_path / "results.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"settings \(mist: False there, True here; mist_args"):
        run(RunConfig(**QUICK, mist=True), tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match=r"settings \(seed: 0 there, 1 here\)"):
        run(RunConfig(**QUICK, seed=1), tmp_path, resume=True, progress=False)


def test_a_stopped_replay_run_starts_over_and_says_so(tmp_path, caplog):
    from mist_avalanche.runs import runner

    config = RunConfig(**QUICK, strategy="replay", strategy_args={"train_epochs": 1})
    whole = run(config, tmp_path / "whole", resume=True, progress=False)
    with (
        mock.patch.object(runner, "save_classifier", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        run(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert "starts over" not in caplog.text
    again = run(config, tmp_path / "run", resume=True, progress=False)
    assert "starts over: ReplayPlugin keeps state that cannot be saved" in caplog.text
    assert again["accuracy"] == whole["accuracy"]


@pytest.mark.tensorboard
def test_command(tmp_path, capsys):
    arguments = ["--experiences", "50", "--output", str(tmp_path), "--quiet", "--jobs", "1"]
    methods = ["--strategies", "simplecil,simplecil+mist", "--mist-arg", "tune_epochs=1"]
    assert cli.main(["compare", *arguments, *methods]) == 0
    out = capsys.readouterr().out
    assert "SimpleCIL + MIST" in out
    assert str(tmp_path) in out
    assert (tmp_path / "comparison.md").read_text().startswith("| method")
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = {
        "Methods/Accuracy on all classes seen",
        "Methods/Gain by MIST",
        "Methods/Loss of MIST's tuning",
        "Methods/Plasticity against stability",
        "Accuracy by experience/SimpleCIL: accuracy by experience",
        "Accuracy by experience/SimpleCIL + MIST: accuracy by experience",
        "Where MIST may move the backbone/SimpleCIL + MIST: entries that may move",
        *(
            f"{CONFUSIONS}/{name}: confusion by experience"
            for name in ("SimpleCIL", "SimpleCIL + MIST")
        ),
    }
    assert set(board.Tags()["images"]) == tags
    assert cli.main(["run", *arguments, "--overwrite", "--experiences", "0"]) == 1
    assert "`n_experiences` between 1" in capsys.readouterr().err
    assert cli.main(["compare", *arguments, "--strategies", "simplecli"]) == 1
    assert "Unknown method 'simplecli'" in capsys.readouterr().err


def test_ranpac_drift_and_ablations(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mist_avalanche.cli.run.write_figures", lambda *_, **__: None)  # slow
    common = ["--experiences", "50", "--quiet", "--jobs", "1"]
    for short in ("tune_epochs=1", "projection_epochs=1"):
        common += ["--mist-arg", short]
    methods = "ranpac+mist+drift,simplecil+mist+drift"
    arguments = [
        *common,
        "--mist-arg",
        "later_epochs=1",
        "--output",
        str(tmp_path / "c"),
        "--strategies",
        methods,
    ]
    for setting, message in (
        ("mem_size=3", "'ranpac' has no argument 'mem_size'"),
        ("device=cuda", "'device' is not an argument here. Use --device"),
    ):
        assert cli.main(["compare", *arguments, "--strategy-arg", setting]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    for setting in ("dtype=float32", "n_random_features=300"):
        arguments += ["--strategy-arg", setting]
    assert cli.main(["compare", *arguments]) == 0
    results = json.loads((tmp_path / "c" / "ranpac+mist+drift" / "results.json").read_text())
    assert results["config"]["strategy_args"]["n_random_features"] == 300
    assert results["config"]["mist_args"]["tune_on"] == "every"
    assert results["config"]["drift_compensation"]
    assert results["config"]["strategy_args"]["dtype"] == "float32"
    capsys.readouterr()

    simplecil = ["--strategies", "simplecil"]
    assert cli.main(["ablate", *common, *simplecil, "--output", str(tmp_path / "a")]) == 0
    rows = (tmp_path / "a" / "ablations.md").read_text().splitlines()
    assert len(rows) == 2 + 2 + len(ABLATIONS)
    page = (tmp_path / "a" / "report.html").read_text()
    assert "<td class=note>Every selected entry moves in every step; none rests." in page
    assert "mist-avalanche ablate --experiences 50" in page
    assert "| SimpleCIL + MIST (dense) " in "\n".join(rows)
    args = {
        name: json.loads((tmp_path / "a" / f"simplecil+{name}" / "results.json").read_text())
        for name in ("mist", *ABLATIONS)
    }
    assert args["random"]["config"]["mist_args"]["select_by"] == "random"
    assert args["mist"]["mist"]["selected_fraction"] <= 0.05
    assert args["dense"]["mist"]["selected_fraction"] == 1

    late = ["--strategies", "simplecil,naive+drift", "--output", str(tmp_path / "late")]
    assert cli.main(["compare", *late]) == 1
    assert "no drift to compensate" in capsys.readouterr().err
    assert not (tmp_path / "late").exists()
    assert cli.main(["ablate", "--strategies", "simplecil+mist"]) == 1
    assert "Unknown method" in capsys.readouterr().err


def test_settings_have_the_defaults_of_the_backbone():
    defaults = DEFAULTS["embedded"]
    settings = RunConfig(strategy="ranpac", mist=True, mist_args={"lr": 3e-3}).settings()
    assert settings["strategy_args"]["n_random_features"] == defaults.n_random_features
    assert settings["mist_args"] == {**defaults.mist, "lr": 3e-3}


def test_settings_on_the_command_line():
    assert options.setting("lr=1e-3") == ("lr", 1e-3)
    assert options.setting("alphabets=Greek,Latin") == ("alphabets", ["Greek", "Latin"])
    assert options.setting("select_by=random") == ("select_by", "random")


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="--device cpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys, jobs):
    methods = "naive,simplecil+mist"
    arguments = [
        "compare",
        "--strategies",
        methods,
        "--experiences",
        "50",
        "--quiet",
        "--jobs",
        "1",
    ]
    arguments += ["--mist-arg", "classifier=nowhere", "--output", str(tmp_path)]
    if jobs == 2:
        arguments += ["--jobs", "2", "--benchmark-arg", "data_seed=0", "--experiences", "100"]
        monkeypatch.setattr(experiments, "ProcessPoolExecutor", _Threads)
    assert cli.main(arguments) == 1
    shown = capsys.readouterr()
    assert "1 run(s) failed; --resume" in shown.err
    assert "Naive " in shown.out
    assert "no module named 'nowhere'" in (tmp_path / "simplecil+mist" / "error.txt").read_text()
    assert (tmp_path / "naive" / "results.json").exists()
    alone = [*arguments[:2], "simplecil+mist", *arguments[3:], "--resume"]
    assert cli.main(alone) == 1
    assert "no module named 'nowhere'" in capsys.readouterr().err


class _Threads(ThreadPoolExecutor):
    """In place of processes, which would not see the few glyphs."""

    def __init__(self, jobs, **settings):
        super().__init__(1)
        experiments._words = settings["initargs"][-1]


def test_what_takes_long_begins_first():
    labels = ["simplecil", "simplecil+mist", "ranpac", "l2p+mist", "replay"]
    configs = [RunConfig(strategy=n.split("+")[0], mist="+" in n) for n in labels]
    order = [config.label for config in sorted(configs, key=experiments._brief)]
    assert order == ["l2p+mist", "replay", "simplecil+mist", "simplecil", "ranpac"]
