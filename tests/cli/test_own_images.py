"""A folder of images, timm's DeiT-Tiny from a file, another size: compare and suggest as a user."""

import json

import pytest
import timm
import torch
from data_layouts import class_folders, photos
from safetensors.torch import save_file

from mist_avalanche import cli

BACKBONE = "deit_tiny_patch16_224"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Options of a benchmark of photographs with random weights."""
    folder = tmp_path_factory.mktemp("own")
    class_folders(folder / "photos", photos())
    torch.manual_seed(0)
    save_file(timm.create_model(BACKBONE).state_dict(), folder / "weights.safetensors")
    return [
        *("--benchmark", "folder", "--dataset-root", str(folder / "photos")),
        *("--backbone", BACKBONE, "--weights", str(folder / "weights.safetensors")),
        *("--image-size", "32", "--normalize", "pretrained", "--quiet"),
        *("--mist-arg", "tune_epochs=1", "--batch-size", "8"),
    ]


def test_compare(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mist_avalanche.cli.run.write_figures", lambda *_, **__: None)  # slow
    monkeypatch.setattr("mist_avalanche.runs.runner.write_board", lambda *_: None)
    methods = "simplecil,simplecil+mist"
    more = ["--experiences", "3", "--jobs", "1", "--strategies", methods]
    assert cli.main(["compare", *given, *more, "--output", str(tmp_path)]) == 0
    assert "MIST adds" in capsys.readouterr().out
    found = json.loads((tmp_path / "simplecil+mist" / "results.json").read_text())
    assert found["inputs"]["image_size"] == 32
    assert found["inputs"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert sorted(found["class_names"]) == sorted(photos())
    assert found["config"]["mist_args"]["lr"] == 0.003  # the default of this backbone
    layers = {row[0]: row for row in found["mist"]["layers"]}
    assert layers["backbone.pos_embed"][2] == (1 + 4) * 192  # of 2 x 2 patches of 16 pixels


def test_suggest(given, capsys):
    arguments = ["suggest", *given, "--experiences", "1", "--lrs", "0.001,0.003"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["frozen", "0.001", "0.003"]
    assert all(0 <= float(line.split()[1]) <= 100 for line in lines[2:5])
    assert lines[-1].startswith(("Use --lr", "No learning rate"))


def test_a_size_that_the_backbone_cannot_have_is_refused_before_the_work(given, tmp_path, capsys):
    given = [x if x != "32" else "10" for x in given]
    assert cli.main(["compare", *given, "--strategies", "ranpac", "--output", str(tmp_path)]) == 1
    assert "--image-size" in capsys.readouterr().err
    assert not [*tmp_path.rglob("results.json")]
