"""The classifier that a finished run leaves."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import config

from mist_avalanche import cli
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.runs import load_run, run
from mist_avalanche.runs.checkpoint import read

GLYPHS = {"benchmark": "glyphs", "experiences": 50, "first": 2}


@pytest.fixture(scope="module")
def benchmark():
    return SplitGlyphs(50)


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("simplecil", {}),
        ("ranpac", {"n_random_features": 300}),
        ("simplecil", {"joined": True}),
        ("naive", {"train_epochs": 1}),
        ("der", {"train_epochs": 1}),
        ("l2p", {"train_epochs": 1}),
        ("slca", {"train_epochs": 1, "samples_per_class": 8}),
        ("cofima", {"train_epochs": 1, "samples_per_class": 8}),
        ("ease", {"train_epochs": 1}),
        ("ssiat", {"first_epochs": 1, "train_epochs": 1, "samples_per_class": 8}),
        ("mos", {"train_epochs": 1, "align_epochs": 1}),
        ("aper", {"train_epochs": 1}),
        ("fecam", {}),
    ],
)
def test_a_finished_run_gives_its_classifier_back(strategy, settings, benchmark, tmp_path):
    results = run(config(strategy, **GLYPHS, strategy_args=settings), tmp_path)
    classifier = load_run(tmp_path)
    hits = []
    for experience in benchmark.test_stream[:2]:
        images, labels, *_ = zip(*experience.dataset.eval(), strict=True)
        predicted = classifier.logits(torch.stack(images)).argmax(1)
        hits += (predicted == torch.tensor(labels)).tolist()
    assert 100 * np.mean(hits) == pytest.approx(results["metrics"]["A_T"])


def test_what_only_training_needs_is_dropped(tmp_path, caplog):
    run(config("ranpac", strategy_args={"n_random_features": 50}), tmp_path)
    load_run(tmp_path)
    assert "resized and cropped, whatever tiny_runs:tiny does" in caplog.text
    model = read(tmp_path / "checkpoint.pt")["strategy"]["model"]
    assert model["head.weight"].shape == (50, 6)
    assert model["head.gram"].numel() == model["head.cross"].numel() == 0


def test_files_and_the_command(benchmark, tmp_path, capsys):
    run(config(**GLYPHS), tmp_path / "run")
    x, y, *_ = benchmark.test_stream[1].dataset.eval()[0]
    pixels = (255 * x.permute(1, 2, 0)).round().byte().numpy()
    file = tmp_path / "a ü.png"
    Image.fromarray(pixels).resize((64, 64)).save(file)
    (top,) = load_run(tmp_path / "run").predict([file], k=9)
    assert len({p.label for p in top}) == 4  # two experiences of two classes
    assert [p.score for p in top] == sorted((p.score for p in top), reverse=True)
    assert benchmark.class_names[y] in [p.label for p in top[:3]]
    command = ["predict", "--run", str(tmp_path / "run"), "--top", "3"]
    assert cli.main([*command, str(file)]) == 0
    assert top[0].label in capsys.readouterr().out
    assert cli.main([*command, "--json", str(file)]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert [p["label"] for p in found] == [p.label for p in top[:3]]
    with pytest.raises(ValueError, match="`k`"):
        load_run(tmp_path / "run").predict([file], k=0)


def test_folders_without_a_classifier(tmp_path):
    (tmp_path / "seed-3").mkdir()
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        load_run(tmp_path)
    run(config("streaming_lda"), tmp_path / "seed-3")
    with pytest.raises(FileNotFoundError, match="seed-3"):
        load_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="streaming_lda saves no classifier"):
        load_run(tmp_path / "seed-3")
    (tmp_path / "seed-3" / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json"):
        load_run(tmp_path / "seed-3")
