"""Settings files of the reference implementation, and results.json, as runs."""

import json
import logging

import pytest
from data_layouts import class_folders, photos
from tiny_runs import config

from mist_avalanche import cli
from mist_avalanche.method.options import MISTOptions
from mist_avalanche.runs import run
from mist_avalanche.runs.config_files import read_config

PUBLISHED = {  # dataset in the reference's words: classes per experience, ours
    "cifar224": (10, "cifar100"),
    "cub": (20, "cub200"),
    "imagenetr": (20, "imagenet-r"),
    "imageneta": (20, "imagenet-a"),
    "cars196": (20, "cars196"),
}


def settings(**changes):
    return {
        "prefix": "reproduce",
        "dataset": "imagenetr",
        "memory_size": 0,
        "shuffle": True,
        "init_cls": 20,
        "increment": 20,
        "model_name": "ranpac_mist",
        "convnet_type": "pretrained_vit_b16_224_in21k",
        "device": ["0"],
        "seed": [1993],
        "batch_size": 56,
        "select_rate": 0.1,
        "drop_rate": 0.9,
        "mi_epochs": 20,
        "M": 10000,
        "spr": 0.0005,
        **changes,
    }


def read(tmp_path, content, given=None):
    file = tmp_path / "settings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_config(file, {"dataset_root": "data", **(given or {})})


@pytest.mark.parametrize("method", ["ranpac", "simplecil"])
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_the_ten_published_combinations(dataset, method, tmp_path):
    increment, benchmark = PUBLISHED[dataset]
    model = f"{method}_mist"
    given = settings(dataset=dataset, init_cls=increment, increment=increment, model_name=model)
    (found,) = read(tmp_path, given)
    assert (found.benchmark, found.strategy, found.mist) == (benchmark, method, True)
    assert (found.experiences, found.order_seed, found.dataset_root) == (10, 1993, "data")
    assert found.backbone == "vit_base_patch16_224.augreg_in21k"
    published = {
        "score_on": "every",
        "tune_on": "every",
        "dynamics": "reference",
        "batch_size": 56,
        "select_rate": 0.1,
        "drop_rate": 0.9,
        "tune_epochs": 19,  # there, the pass that scores is the first of the 20
        "protect_rate": 0.0005,
    }
    other = {name: getattr(MISTOptions, name) for name in ("lr", "projection_lr", "view")}
    assert found.settings()["mist_args"].items() >= {**other, **published}.items()
    assert found.strategy_args == ({"n_random_features": 10000} if method == "ranpac" else {})
    copy = {} if dataset in ("cifar224", "cars196") else {"split": "processed"}
    assert found.benchmark_args == {"shuffle": True, **copy}


def test_simplecil_protects_the_single_maximum(tmp_path):
    content = settings(model_name="simplecil_mist")
    del content["spr"]
    (found,) = read(tmp_path, content)
    assert 0 < found.mist_args["protect_rate"] < 1e-9


def test_the_backbone_changes_nothing_of_the_published_method(tmp_path):
    (found,) = read(tmp_path, settings(convnet_type="embedded"))
    assert found.settings()["mist_args"]["tune_on"] == "every"  # not "first", its own default


def test_what_is_given_beside_the_file(tmp_path):
    given = {"backbone": "embedded", "mist_args": {"lr": 1e-3, "drop_rate": 0.5}}
    first, second = read(tmp_path, settings(seed=[1993, 7], init_cls=0), given)
    assert (first.order_seed, second.order_seed) == (1993, 7)
    assert first.backbone == "embedded"
    assert (first.mist_args["drop_rate"], first.mist_args["lr"]) == (0.5, 1e-3)
    for name, value in (("strategy", "ranpac"), ("experiences", 10), ("order_seed", 1)):
        with pytest.raises(ValueError, match=f"already sets `{name}`"):
            read(tmp_path, settings(), {name: value})


def test_keys_that_are_not_used_are_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "mist_avalanche"):
        (found,) = read(tmp_path, settings(model_name="simplecil", drop_rat=0.5))
    assert not found.mist
    assert found.mist_args == found.strategy_args == {}
    assert "memory_size, device, batch_size, select_rate" in caplog.text
    assert "M, spr, drop_rat." in caplog.text
    assert "`model_name` 'simplecil_mist' has it" in caplog.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_name": "icarl"}, "`model_name`.*'icarl'"),
        ({"dataset": "vtab"}, "`dataset`.*'vtab'"),
        ({"convnet_type": "resnet18"}, "`convnet_type`.*'resnet18'"),
        ({"convnet_type": None}, "`convnet_type`"),
        ({"backbone_type": "resnet18"}, "`backbone_type`.*'resnet18'"),
        ({"init_cls": 100}, "100 and 20"),
        ({"increment": "many"}, "`increment`"),
        ({"increment": 30, "init_cls": 30, "dataset": "cifar224"}, "100 classes"),
        ({"seed": 1.5}, "`seed`"),
        ({"shuffle": "false"}, "`shuffle`"),
    ],
)
def test_settings_that_cannot_be(changes, named, tmp_path):
    with pytest.raises(ValueError, match=rf"settings\.json: .*{named}"):
        read(tmp_path, settings(**changes))


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_files_that_are_no_settings(content, tmp_path):
    with pytest.raises(ValueError, match=r"settings\.json is not"):
        read(tmp_path, content)


def test_run_from_a_settings_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("train", "test"):
        class_folders(tmp_path / "imagenet-r" / part, photos())
    content = settings(
        increment=100, init_cls=100, model_name="simplecil", convnet_type="embedded", seed=[3, 4]
    )
    (tmp_path / "settings.json").write_text(json.dumps(content))
    arguments = ["--config", str(tmp_path / "settings.json"), "--dataset-root", str(tmp_path)]
    output = tmp_path / "out"
    assert cli.main(["run", *arguments, "--output", str(output), "--quiet", "--jobs", "1"]) == 0
    saves = ["--save", str(tmp_path / "options.yaml"), "--overwrite", "--dry-run"]
    assert cli.main(["run", *arguments, *saves]) == 1  # the file would not have the settings
    for seed in (3, 4):
        file = output / f"simplecil-order-{seed}" / "results.json"
        found = json.loads(file.read_text())["config"]
        assert (found["benchmark"], found["order_seed"]) == ("imagenet-r", seed)


def test_settings_of_one_method_are_not_those_of_a_comparison(tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps(settings()))
    assert cli.main(["compare", "--config", str(tmp_path / "settings.json"), "--dry-run"]) == 1
    assert "settings.json has the settings of one method" in capsys.readouterr().err


def test_a_run_is_repeated_from_its_results(tmp_path):
    settings = config("ranpac", mist=True, strategy_args={"n_random_features": 50})
    first = run(settings, tmp_path / "a")
    file = tmp_path / "a" / "results.json"
    (again,) = read_config(file, {})
    second = run(again, tmp_path / "b")
    assert second["config"] == first["config"]
    assert second["accuracy"] == first["accuracy"]
    assert "seed" not in again.strategy_args  # so that --seeds varies it
    (elsewhere,) = read_config(file, {"dataset_root": "there"})
    assert elsewhere.dataset_root == "there"
    for name in ("backbone", "seed", "mist_args"):
        with pytest.raises(ValueError, match=f"already sets `{name}`"):
            read_config(file, {name: None})
    file.write_text(json.dumps({**first, "schema": 0}))
    with pytest.raises(ValueError, match="this version"):
        read_config(file, {})
