"""Nothing that a user sets is ignored in silence, and no finished run is replaced unasked."""

import json
from dataclasses import replace

import pytest
import torch
from data_layouts import class_folders, photos
from small_runs import small, streams
from tiny_runs import tiny_benchmark
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitCars196, SplitImageNetR, SplitOmniglot
from mist_avalanche.cli import command as cli
from mist_avalanche.models.backbones import create_backbone, input_statistics
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.experiments import run_methods
from mist_avalanche.runs.runner import run
from mist_avalanche.runs.settings_check import check_settings, only_used
from mist_avalanche.strategies import L2P, RanPAC, SimpleCIL

QUICK = {"benchmark": "glyphs"}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def tiny_glyphs():
    with tiny_benchmark():
        yield


def error_of(capsys, *arguments):
    assert cli.main([*arguments, "--quiet", "--jobs", "1"]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mist-arg", "lr=99"], "MISTPlugin's lr has no effect in simplecil: it needs --mist"),
        (["--lr", "0.1"], "MISTPlugin's lr has no effect"),
        (["--mist", "--mist-arg", "lrr=0.1"], "MISTPlugin has no argument 'lrr'. It has lr, "),
        (["--mist", "--lr", "1", "--mist-arg", "lr=2"], "'lr' is given twice"),
        (["--mist", "--mist-arg", "precision=bf16"], "Use --precision"),
        (["--strategy-arg", "sede=1"], "'simplecil' has no argument 'sede'. It has "),
        (
            ["--benchmark-arg", "data_sede=1"],
            "benchmark has no argument 'data_sede'. It has d",
        ),
        (["--benchmark-arg", "seed=1"], "'seed' is not an argument here. Use --order-seed"),
        (["--dataset-root", "x"], "--dataset-root has no effect: glyphs are drawn"),
        (["--normalize", "published"], "--normalize has no effect: glyphs are drawn"),
        (["--checkpoint-every", "7"], "--checkpoint-every (7.0) has no effect in simplecil"),
        (
            ["--strategy", "naive", "--precision", "bf16"],
            "--precision (bf16) has no effect in naive: it needs --mist, or a method with '+mist', "
            "or simplecil or ranpac",
        ),
        (
            ["--benchmark-arg", "shuffle=false", "--order-seed", "3"],
            "--order-seed has no effect: the class order is fixed",
        ),
    ],
)
def test_what_would_be_ignored_is_named(arguments, message, tmp_path, capsys):
    assert message in error_of(capsys, "run", *arguments, "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_in_a_comparison_one_method_is_enough():
    naive, mist = RunConfig(strategy="naive"), RunConfig(mist=True, mist_args={"lr": 0.1})
    check_settings([naive, mist])
    with pytest.raises(ValueError, match="MISTPlugin's lr has no effect in naive and simplecil"):
        check_settings([naive, RunConfig(mist_args={"lr": 0.1})])


@pytest.mark.parametrize("strategy", [SimpleCIL, RanPAC])
def test_strategies_without_optimizer_say_so(strategy):
    with pytest.raises(TypeError, match="has no argument 'optimizer': its classifier is computed"):
        strategy(model=create_backbone(), optimizer=torch.optim.SGD([torch.zeros(1)], 1.0))


def test_finished_runs_are_replaced_when_asked_only(tmp_path):
    run(RunConfig(**QUICK), tmp_path, progress=False)
    (tmp_path / "error.txt").write_text("of an earlier try")
    before = (tmp_path / "results.json").read_text()
    for again in (lambda c: run(c, tmp_path), lambda c: run_methods([(c, tmp_path)])):
        with pytest.raises(ValueError, match=r"holds a finished run\. --resume .* --overwrite"):
            again(RunConfig(**QUICK, seed=1))
    assert (tmp_path / "results.json").read_text() == before
    run(RunConfig(**QUICK, seed=1), tmp_path, overwrite=True, progress=False)
    assert json.loads((tmp_path / "results.json").read_text())["config"]["seed"] == 1
    assert not (tmp_path / "error.txt").exists()


@pytest.mark.parametrize(("key", "value"), [("schema", 2), ("schema", 0), ("version", "0.0.1")])
def test_results_of_another_version_are_not_taken_up(key, value, tmp_path):
    run(RunConfig(**QUICK), tmp_path, progress=False)
    content = json.loads((tmp_path / "results.json").read_text())
    if key == "version":
        content["environment"]["mist_avalanche"] = value
    else:
        content[key] = value
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{value}.*replace it with --overwrite"):
        run(RunConfig(**QUICK), tmp_path, resume=True, progress=False)


def test_a_run_is_repeated_from_its_results(tmp_path, capsys):
    common = ["--quiet", "--jobs", "1"]
    first = ["run", "--mist", "--experiences", "50", "--tune-epochs", "1", "--select-rate", "0.02"]
    assert cli.main([*first, *common, "--output", str(tmp_path / "a")]) == 0
    file = str(tmp_path / "a" / "results.json")
    assert cli.main(["run", "--config", file, *common, "--output", str(tmp_path / "b")]) == 0
    a, b = (json.loads((tmp_path / f / "results.json").read_text()) for f in "ab")
    assert (a["config"], a["accuracy"]) == (b["config"], b["accuracy"])
    assert b["config"]["mist_args"]["select_rate"] == 0.02
    capsys.readouterr()
    other = error_of(capsys, "run", "--config", file, "--backbone", "resnet18")
    assert "decides what `backbone` is" in other


def test_a_dry_run_shows_the_plan_and_does_nothing(tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--benchmark", "cub200", "--backbone", "deit_tiny_patch16_224", "--dry-run"]
    arguments += ["--strategies", "simplecil,simplecil+mist", "--output", str(output)]
    assert cli.main(["compare", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "224 pixels, pretrained: mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225" in shown
    assert "simplecil+mist" in shown
    assert not output.exists()


# ---- Normalisation ---------------------------------------------------------------------------


def test_the_backbone_decides_unless_told_otherwise():
    paper, other = "vit_base_patch16_224", "deit_tiny_patch16_224"
    half = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    for name, benchmark, normalize, statistics in (
        (paper, "cub200", None, (None, None)),
        (paper, "cars196", None, IMAGENET),
        (paper, "cub200", "pretrained", half),
        (other, "cub200", None, IMAGENET),
        (other, "cub200", "published", (None, None)),
        (other, "omniglot", None, IMAGENET),
        (other, "cub200", "none", (None, None)),
        ("embedded", "cars196", None, (None, None)),
    ):
        inputs = RunConfig(benchmark=benchmark, backbone=name, normalize=normalize).inputs
        assert (inputs["mean"], inputs["std"]) == statistics, (name, benchmark, normalize)


def first_image(benchmark):
    return benchmark.test_stream[0].dataset[0][0]


def test_normalisation_of_a_benchmark(tmp_path):
    class_folders(tmp_path / "imagenet-r", photos())
    arguments = {"dataset_root": tmp_path, "image_size": 32}
    plain = first_image(SplitImageNetR(2, **arguments))
    assert torch.equal(plain, first_image(SplitImageNetR(2, normalize=None, **arguments)))
    for choice in (
        {"normalize": IMAGENET},
        {"normalize": "pretrained", "backbone": "deit_tiny_patch16_224"},
    ):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
        found = first_image(SplitImageNetR(2, **choice, **arguments))
        torch.testing.assert_close(found, (plain - mean) / std)
    for kind in (SplitImageNetR, SplitCars196, SplitOmniglot):
        assert kind.__doc__.count("normalize")
    with pytest.raises(ValueError, match="needs the backbone"):
        SplitImageNetR(2, normalize="pretrained", **arguments)
    with pytest.raises(ValueError, match="Expected `normalize`"):
        SplitImageNetR(2, normalize="imagenet", **arguments)
    own = {"train_transform": nn.Identity(), "eval_transform": nn.Identity()}
    with pytest.raises(ValueError, match="`normalize` acts in the default transforms"):
        SplitImageNetR(2, normalize=None, **own, **arguments)
    with pytest.raises(ValueError, match="No mean and std are known"):
        input_statistics("nothing")


# ---- Set, and of no effect -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tune_on": "first", "later_epochs": 3}, "later_epochs"),
        ({"tune_epochs": 0, "lr": 0.1}, "lr"),
        ({"tune_epochs": 0, "projection_lr": 0.1}, "projection_lr"),
        ({"overlap_decay": 0.5}, "overlap_decay"),
        ({"objective": "cross_entropy", "temperature": 1.0}, "temperature"),
    ],
)
def test_options_of_mist_without_effect_are_named(options, named, capsys):
    with pytest.raises(ValueError, match=f"`{named}` has no effect"):
        MISTPlugin(**options)
    if named in ("overlap_decay", "temperature"):
        arguments = [f"--mist-arg={name}={value}" for name, value in options.items()]
        error = error_of(capsys, "run", "--mist", *arguments)
        assert f"MISTPlugin's {named} has no effect" in error


def test_a_default_of_the_backbone_gives_way():
    assert MISTPlugin.for_backbone("embedded", tune_epochs=0).options.lr == MISTPlugin().options.lr
    both = {"tune_on": "first", "drift_compensation": True}
    deit = "deit_tiny_patch16_224"
    assert MISTPlugin.for_backbone(deit, drift_compensation=True).options.later_epochs == 3
    assert MISTPlugin.for_backbone(deit, **both).options.later_epochs is None
    config = RunConfig(mist=True, mist_args={"tune_epochs": 0, "lr": 1e-2})  # as in results.json
    check_settings([config])
    assert "lr" not in config.settings()["mist_args"]


def test_an_option_that_one_of_two_methods_uses():
    plain = RunConfig(mist=True, mist_args={"later_epochs": 5})
    drift = RunConfig(mist=True, mist_args={"later_epochs": 5}, drift_compensation=True)
    check_settings([plain, drift])
    assert only_used(plain).mist_args == {}
    assert only_used(drift).mist_args == {"later_epochs": 5}
    with pytest.raises(ValueError, match="later_epochs has no effect: tune_on='first'"):
        check_settings([plain])


def test_later_epochs_where_the_strategy_tunes_once():
    mist = MISTPlugin(later_epochs=1, tune_epochs=1, batch_size=8)
    strategy = L2P(model=small(), plugins=[mist])
    with pytest.raises(ValueError, match="`later_epochs` has no effect"):
        strategy.train(streams([[0, 1]]).train_stream[0])


def test_memory_without_drift(tmp_path, capsys):
    with pytest.raises(ValueError, match="memory='gaussians' has no effect without drift"):
        RanPAC(model=create_backbone(), memory="gaussians")
    arguments = ["--strategy-arg", "memory=gaussians", "--output", str(tmp_path)]
    error = error_of(capsys, "run", "--strategy", "ranpac", *arguments)
    assert "'memory' has no effect without drift compensation" in error
    one = RunConfig(strategy="ranpac", strategy_args={"memory": "gaussians"})
    check_settings([one, replace(one, mist=True, drift_compensation=True)])
    assert only_used(one).strategy_args == {}


def test_an_order_that_cannot_vary(tmp_path, capsys):
    arguments = ["run", "--vary-order", "--output", str(tmp_path / "x")]
    assert "no effect on one seed" in error_of(capsys, *arguments)
    fixed = [*arguments, "--seeds", "2", "--benchmark-arg", "shuffle=false"]
    assert "the class order is fixed" in error_of(capsys, *fixed)
    assert not (tmp_path / "x").exists()


def test_a_backbone_and_sizes_that_the_transforms_would_not_follow(tmp_path):
    class_folders(tmp_path / "imagenet-r", photos())
    where = {"dataset_root": tmp_path}
    with pytest.raises(ValueError, match="`backbone` has no effect with normalize='published'"):
        SplitImageNetR(2, backbone="deit_tiny_patch16_224", **where)
    own = {"train_transform": nn.Identity(), "eval_transform": nn.Identity()}
    for kind in (SplitImageNetR, SplitOmniglot):
        for setting in ({"image_size": 64}, {"backbone": "deit_tiny_patch16_224"}):
            with pytest.raises(ValueError, match="acts in the default transforms"):
                kind(2, **own, **setting, **where)


# ---- One folder, two commands ------------------------------------------------------------------


def test_tables_of_another_command_are_kept(tmp_path, capsys):
    one = ["--output", str(tmp_path / "c"), "--strategies", "simplecil"]
    (tmp_path / "c").mkdir()
    for name in ("report.html", "summary.json"):
        (tmp_path / "c" / name).write_text("of another command")
        assert "holds a finished run" in error_of(capsys, "compare", *one)
        assert "holds a finished run" in error_of(capsys, "run", "--output", one[1])
        assert (tmp_path / "c" / name).read_text() == "of another command"
        (tmp_path / "c" / name).unlink()


def test_what_a_config_decides_is_named_even_as_by_default(tmp_path, capsys):
    run(RunConfig(order_seed=7), tmp_path / "r", progress=False)
    file = str(tmp_path / "r" / "results.json")
    again = ["run", "--output", str(tmp_path / "again"), "--config"]
    for option, value in (("experiences", "10"), ("strategy", "simplecil"), ("seed", "0")):
        error = error_of(capsys, *again, file, f"--{option}", value)
        assert f"decides what `{option}` is" in error
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    for change, message in (({"schema": 0}, "is of schema 0"), ({"seeds": [0, 1]}, "the summary")):
        other = tmp_path / "other.json"
        other.write_text(json.dumps({**results, **change}))
        assert message in error_of(capsys, *again, str(other))
    del results["accuracy"]
    (tmp_path / "r" / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"is damaged .it has no accuracy"):
        run(RunConfig(order_seed=7), tmp_path / "r", resume=True, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mist", "--drop-rate", "2"], "`drop_rate`"),
        (["--weights", "nowhere.safetensors"], "No weights at 'nowhere.safetensors'"),
        (["--backbone", "vit_tiny_patch16_22"], "(vit_tiny_patch16_224"),
        (["--backbone", "vit_tiny_patch16_224"], "glyphs are 32 pixels wide"),
        (["--image-size", "64"], "'embedded' takes images of 32 pixels"),
    ],
)
def test_a_dry_run_passes_nothing_that_the_run_refuses(arguments, message, capsys):
    assert message in error_of(capsys, "run", "--dry-run", *arguments)
