import json
import logging

import pytest
from data_layouts import class_folders, photos

from mist_avalanche.cli import command as cli
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.reference_config import read_config

PUBLISHED = {  # dataset in the reference's words, classes an experience, ours
    "cifar224": (10, "cifar100", 10),
    "cub": (20, "cub200", 10),
    "imagenetr": (20, "imagenet-r", 10),
    "imageneta": (20, "imagenet-a", 10),
    "cars196": (20, "cars196", 10),
}


def settings(**changes):
    return {
        "prefix": "reproduce",
        "dataset": "imagenetr",
        "memory_size": 0,
        "memory_per_class": 0,
        "fixed_memory": False,
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


def read(tmp_path, content, base=None):
    file = tmp_path / "settings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_config(file, base or RunConfig(dataset_root="data"))


@pytest.mark.parametrize("method", ["ranpac", "simplecil"])
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_the_ten_published_combinations(tmp_path, dataset, method, caplog):
    increment, benchmark, experiences = PUBLISHED[dataset]
    given = settings(
        dataset=dataset, init_cls=increment, increment=increment, model_name=f"{method}_mist"
    )
    with caplog.at_level(logging.INFO):
        (config,) = read(tmp_path, given)
    assert (config.benchmark, config.strategy, config.mist) == (benchmark, method, True)
    assert (config.experiences, config.order_seed) == (experiences, 1993)
    assert config.backbone == "vit_base_patch16_224.augreg_in21k"
    assert config.dataset_root == "data"
    assert config.mist_args == {
        "score_on": "every",
        "batch_size": 56,
        "select_rate": 0.1,
        "drop_rate": 0.9,
        "tune_epochs": 19,  # there, the pass that scores is the first of the 20
        "protect_rate": 0.0005,
    }
    assert config.strategy_args == ({"n_random_features": 10000} if method == "ranpac" else {})
    assert config.benchmark_args == {"shuffle": True}
    assert "memory_size is ignored: no images are kept" in caplog.text
    assert config.settings()["mist_args"]["select_rate"] == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_rat": 0.5}, "unknown key 'drop_rat'. The nearest known is 'drop_rate'"),
        ({"model_name": "icarl"}, "Expected `model_name` ranpac_mist"),
        ({"dataset": "vtab"}, "Unknown `dataset` 'vtab'. Known are cifar100"),
        ({"convnet_type": "resnet18"}, "Unknown `convnet_type` 'resnet18'"),
        ({"init_cls": 100}, "`init_cls` equal to `increment`.*got 100 and 20"),
        ({"increment": "many"}, "Expected an integer `increment` of at least 1, got 'many'"),
        ({"increment": 0}, "Expected an integer `increment`"),
        (
            {"increment": 30, "init_cls": 30, "dataset": "cifar224"},
            "`increment` 30 cuts 100 classes into 4 experiences of unequal sizes.*such as 25",
        ),
        ({"seed": []}, "Expected `seed` to be different integers"),
        ({"seed": [1, 1]}, "Expected `seed` to be different integers"),
        ({"seed": 1.5}, "Expected an integer `seed`"),
        ({"shuffle": "false"}, "Expected `shuffle` to be true or false, got 'false'"),
        ({"convnet_type": None}, "`convnet_type` is missing"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, settings(**changes))


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_files_that_are_no_settings(tmp_path, content):
    with pytest.raises(ValueError, match=r"is not (JSON|a JSON object)"):
        read(tmp_path, content)


def test_seeds_are_class_orders_and_the_command_line_wins(tmp_path):
    base = RunConfig(mist_args={"lr": 1e-3, "drop_rate": 0.5})
    first, second = read(tmp_path, settings(seed=[1993, 7], init_cls=0), base)
    assert (first.order_seed, second.order_seed) == (1993, 7)
    assert first.mist_args["drop_rate"] == 0.5
    assert first.mist_args["lr"] == 1e-3


def test_run_from_a_settings_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    class_folders(tmp_path / "imagenet-r", photos())
    given = settings(increment=100, init_cls=100, model_name="simplecil_mist", mi_epochs=2)
    given["convnet_type"] = "embedded"
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**given, "seed": [3, 4]}))
    output = tmp_path / "out"
    arguments = ["--dataset-root", str(tmp_path), "--output", str(output), "--quiet", "--jobs", "1"]
    short = ["--mist-arg", "projection_epochs=0"]
    assert cli.main(["run", "--config", str(file), *arguments, *short]) == 0
    results = json.loads((output / "simplecil+mist-order-3" / "results.json").read_text())
    assert results["config"]["split"].startswith("80/20 by name hash")
    assert results["config"]["benchmark"] == "imagenet-r"
    assert (output / "simplecil+mist-order-4" / "results.json").exists()
    assert cli.main(["run", "--config", str(file), "--strategy", "ranpac"]) == 1


def test_keys_without_meaning_for_the_method_are_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        (config,) = read(tmp_path, settings(model_name="simplecil"), RunConfig(backbone="resnet18"))
    assert "M has no meaning for simplecil" in caplog.text
    assert "select_rate has no meaning for simplecil" in caplog.text
    assert config.backbone == "resnet18"
