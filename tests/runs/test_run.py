"""One run: its files, and what is refused before it starts."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import config

from mist_avalanche.models.defaults import DEFAULTS
from mist_avalanche.runs import RunConfig, run
from mist_avalanche.runs.build import choose_device
from mist_avalanche.runs.checks import check_runs

DOCS = Path(__file__).parents[2] / "docs"
OWN = """
from tiny_runs import tiny
from mist_avalanche.strategies import SimpleCIL

class Mine(SimpleCIL):
    def __init__(self, *, scale: float = 1.0, **common):
        super().__init__(**common)
        self.scale = scale

def photos(n_experiences, *, seed, image_size, per_class=4):
    benchmark = tiny(n_experiences, seed=seed, per_class=per_class)
    assert image_size == 32
    del benchmark.class_names, benchmark.split_name
    return benchmark
"""


def test_results_and_their_page(tmp_path):
    results = run(config(mist=True), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    keys = re.findall(r"^\| `(\w+)` \|", (DOCS / "results-json.md").read_text(), re.M)
    assert [*results] == keys
    assert [len(row) for row in results["accuracy"]] == [1, 2, 3]
    assert results["metrics"]["A_T"] == pytest.approx(sum(results["accuracy"][-1]) / 3)
    assert results["config"]["split"] == "tiny"
    assert results["config"]["mist_args"]["tune_on"] == "first"  # the default of the backbone
    assert 0 < results["mist"]["selected_fraction"] <= 0.05
    assert 0 < results["parameters"]["updated"] <= 0.05 * results["parameters"]["backbone"]
    assert [len(losses) for losses in results["mist"]["losses"]] == [2]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert "Top1_Acc_Stream/eval_phase/test_stream/Task000" in board.Tags()["scalars"]


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    settings = config("naive", mist=True, strategy_args={"train_epochs": 1})
    runs = [run(settings, tmp_path / name) for name in "ab"]
    assert runs[0]["accuracy"] == runs[1]["accuracy"]
    assert runs[0]["mist"] == runs[1]["mist"]


def test_the_first_experiences_are_those_of_the_whole_run(tmp_path):
    whole = run(config(), tmp_path / "whole")
    part = run(config(first=2), tmp_path / "part")
    for key in ("accuracy", "test_images", "classes_seen"):
        assert part[key] == whole[key][:2]
    assert part["config"]["first"] == 2
    assert "first" not in whole["config"]


@pytest.mark.parametrize("place", ["./mine.py", "mine"])
def test_a_strategy_and_a_benchmark_of_ones_own(place, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    settings = config(
        f"{place}:Mine",
        benchmark=f"{place}:photos",
        strategy_args={"scale": 2.0},
        benchmark_args={"per_class": 5},
    )
    results = run(settings, tmp_path / "out")
    assert settings.label == "mine"
    assert replace(settings, mist=True).label == "mine+mist"
    assert results["test_images"] == [10, 10, 10]
    assert results["class_names"] == [str(i) for i in range(6)]
    assert results["config"]["strategy_args"]["scale"] == 2.0
    assert run(settings, tmp_path / "out", resume=True) == results


def test_settings_have_the_defaults_of_the_backbone():
    defaults = DEFAULTS["embedded"]
    settings = RunConfig(strategy="ranpac", seed=3, mist=True, mist_args={"lr": 3e-3}).settings()
    assert settings["strategy_args"]["n_random_features"] == defaults.n_random_features
    assert settings["strategy_args"]["seed"] == 3
    assert settings["mist_args"].items() >= {**defaults.mist, "lr": 3e-3, "drop_rate": 0.9}.items()
    assert settings["strategy_args"]["train_mb_size"] == 64
    assert (
        RunConfig(strategy="replay").settings()["strategy_args"].items()
        >= {
            "lr": 0.003,
            "momentum": 0.9,
            "mem_size": 200,
            "train_epochs": 10,
        }.items()
    )


def test_a_first_session_belongs_to_one_backbone():
    about = {"strategy": "ranpac", "backbone": "vit_base_patch16_224", "mist": True}
    cases = ((None, False, "every"), ("ssf", False, "first"), ("ssf", True, "every"))
    for session, drift, tune_on in cases:
        args = {"first_session": session}
        settings = RunConfig(**about, strategy_args=args, drift_compensation=drift).settings()
        assert settings["mist_args"]["tune_on"] == tune_on


@pytest.mark.parametrize(
    ("strategy", "arguments", "expected"),
    [
        ("simplecil", {}, 0),
        ("ranpac", {"n_random_features": 20}, 0),
        ("slca", {"train_epochs": 1, "samples_per_class": 4}, 6 * 97),
        ("mos", {"train_epochs": 1, "align_epochs": 1, "bottleneck": 2}, 6 * 97 + 3 * 4 * 482),
    ],
)
def test_entries_that_gradients_trained(strategy, arguments, expected, tmp_path):
    found = run(config(strategy, strategy_args=arguments), tmp_path)["parameters"]
    assert found["trained"] - found["updated"] == expected


@pytest.mark.parametrize(
    ("changes", "joined"),
    [
        ({}, True),
        ({"strategy": "ranpac"}, True),
        ({"mist": False}, False),
        ({"drift_compensation": True}, False),  # tuned again
        ({"mist_args": {"tune_on": "every"}}, False),
        ({"strategy": "ranpac", "strategy_args": {"first_session": "adapter"}}, False),
        ({"strategy_args": {"joined": False}}, False),
        ({"image_size": 128}, False),
        ({"strategy": "fecam"}, False),
        ({"strategy": "fecam", "strategy_args": {"joined": True}}, True),
    ],
)
def test_features_are_joined_where_a_backbone_is_tuned_once(changes, joined):
    config = RunConfig(**{"backbone": "deit_tiny_patch16_224", "mist": True, **changes})
    settings = config.settings()
    assert settings["strategy_args"]["joined"] is joined
    if config.mist:
        assert settings["mist_args"]["lr"] == (1e-2 if joined else 3e-3)
    assert ("joined" in config.label) is (config.strategy == "fecam" and joined)
    again = RunConfig.from_results({"config": settings})
    assert (again.settings(), again.label) == (settings, config.label)


def test_the_backbone_decides_the_inputs_unless_told_otherwise():
    paper, other = "vit_base_patch16_224", "deit_tiny_patch16_224"
    imagenet, half = [0.485, 0.456, 0.406], [0.5, 0.5, 0.5]
    for backbone, benchmark, normalize, mean in (
        (paper, "cub200", None, None),
        (paper, "cars196", None, imagenet),
        (paper, "cub200", "pretrained", half),
        (other, "cub200", None, imagenet),
        (other, "cub200", "published", None),
        (other, "cub200", "none", None),
        ("embedded", "cars196", None, None),
    ):
        inputs = RunConfig(benchmark=benchmark, backbone=backbone, normalize=normalize).inputs
        found = inputs["mean"] and [*inputs["mean"]]
        assert found == mean, (backbone, benchmark, normalize)
        assert inputs["image_size"] == (32 if backbone == "embedded" else 224)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"strategy": "simplecli"}, "'simplecli'.* simplecil"),
        ({"strategy": "nowhere:Mine"}, "nowhere"),
        ({"benchmark": "cub"}, "'cub'.* cub200"),
        ({"benchmark": "tiny_runs:nothing"}, "nothing"),
        ({"strategy_args": {"sede": 1}}, "SimpleCIL has no argument 'sede'"),
        ({"strategy_args": {"device": "cpu"}}, "no argument 'device'"),
        ({"benchmark_args": {"per_clas": 1}}, "'per_clas'. It has per_class"),
        ({"benchmark_args": {"seed": 1}}, "--order-seed"),
        ({"mist": True, "mist_args": {"lrr": 1}}, "MISTPlugin has no argument 'lrr'. It has lr"),
        ({"mist": True, "mist_args": {"drop_rate": 2}}, "`drop_rate`"),
        ({"mist_args": {"lr": 1e-3}}, "lr: for MISTPlugin.*--mist"),
        ({"first": 4}, "`first`"),
        ({"precision": "16"}, "`precision`"),
        ({"normalize": "imagenet"}, "`normalize`"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"backbone": "vit_tiny_patch16_22"}, "vit_tiny_patch16_224"),
        ({"image_size": 64}, "32"),
        ({"weights": "nowhere.safetensors"}, r"nowhere\.safetensors"),
        ({"benchmark": "glyphs", "backbone": "vit_tiny_patch16_224"}, "32 pixels"),
        ({"strategy": "naive", "drift_compensation": True}, "drift"),
        ({"strategy": "ease", "mist": True, "mist_args": {"tune_on": "every"}}, "tune_on=first"),
    ],
)
def test_what_is_wrong_is_named_before_the_run(settings, named, tmp_path):
    error = FileNotFoundError if "weights" in settings else ValueError
    with pytest.raises(error, match=named):
        run(replace(config(), **settings), tmp_path)
    assert not any(tmp_path.iterdir())


def test_of_shared_options_each_method_gets_its_own():
    shared = {"strategy_args": {"train_epochs": 1, "n_random_features": 9}, "mist_args": {"lr": 1}}
    methods = [config(name, **shared) for name in ("simplecil", "ranpac", "naive")]
    checked = check_runs([*methods, replace(methods[0], mist=True)])
    taken = [{*c.strategy_args, *c.mist_args} for c in checked]
    assert taken == [set(), {"n_random_features"}, {"train_epochs"}, {"lr"}]


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="--device cpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
