import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.cli import command as cli
from mist_avalanche.runs import runner
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.prediction import DELTA, HEAD, load_run, save_classifier
from mist_avalanche.runs.runner import run

MIST = {"tune_epochs": 1, "projection_epochs": 0, "lr": 0.05}


@pytest.fixture(scope="module")
def benchmark():
    return SplitGlyphs(20)


@pytest.fixture(autouse=True)
def _two_experiences(monkeypatch, benchmark):
    class Few:
        train_stream, test_stream = benchmark.train_stream[:2], benchmark.test_stream[:2]
        class_names, split_name = benchmark.class_names, benchmark.split_name

    monkeypatch.setattr(runner, "BENCHMARKS", {"glyphs": lambda _: Few})


def finished(folder, strategy, **settings):
    return run(
        RunConfig(strategy=strategy, mist=True, mist_args=MIST, **settings), folder, progress=False
    )


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("simplecil", {}),
        ("ranpac", {"n_random_features": 300}),
        ("ranpac", {"n_random_features": 0, "dtype": "float32"}),
        ("naive", {"train_epochs": 1}),
        ("der", {"train_epochs": 1}),
        ("l2p", {"train_epochs": 1}),
        ("dualprompt", {"train_epochs": 1}),
        ("codaprompt", {"train_epochs": 1}),
        ("slca", {"train_epochs": 1, "samples_per_class": 8}),
        ("ease", {"train_epochs": 1, "beta": 0.5}),
    ],
)
def test_a_finished_run_gives_its_classifier_back(tmp_path, benchmark, strategy, settings):
    results = finished(tmp_path, strategy, strategy_args=settings)
    classifier = load_run(tmp_path)
    hits = []
    for experience in benchmark.test_stream[:2]:
        items = list(experience.dataset.eval())
        logits = classifier.logits(torch.stack([x for x, *_ in items]))
        hits += (logits.argmax(1) == torch.tensor([y for _, y, *_ in items])).tolist()
    assert 100 * np.mean(hits) == pytest.approx(results["metrics"]["A_T"])
    assert not list(tmp_path.glob(".*"))


def test_files_and_the_command(tmp_path, benchmark, capsys):
    finished(tmp_path / "run", "simplecil")
    images = []
    for i in (0, 60):
        x, y, *_ = benchmark.test_stream[i // 50].dataset.eval()[i % 50]
        pixels = (255 * x.permute(1, 2, 0)).round().byte().numpy()
        images.append((tmp_path / f"{i} ü.png", benchmark.class_names[y]))
        Image.fromarray(pixels).resize((64, 64)).save(images[-1][0])
    classifier = load_run(tmp_path / "run")
    found = classifier.predict([file for file, _ in images], k=3)
    for top in found:
        assert len({p.label for p in top}) == 3
        assert all(a.probability >= b.probability > 0 for a, b in pairwise(top))
    arguments = ["predict", "--run", str(tmp_path / "run"), "--top", "3"]
    assert cli.main([*arguments, *(str(file) for file, _ in images)]) == 0
    shown = capsys.readouterr().out
    assert found[0][0].label in shown
    assert "0 ü.png" in shown
    assert cli.main([*arguments, "--json", str(images[0][0])]) == 0
    (top,) = json.loads(capsys.readouterr().out).values()
    assert [p["label"] for p in top] == [p.label for p in found[0]]
    assert cli.main([*arguments, str(tmp_path / "none.png")]) == 1
    assert cli.main(["predict", "--run", str(tmp_path), str(images[0][0])]) == 1
    assert "no results.json" in capsys.readouterr().err
    with pytest.raises(ValueError, match="k of at least 1"):
        classifier.predict([], k=0)


def test_damaged_files_and_other_bases_are_refused(tmp_path):
    finished(tmp_path, "simplecil")
    good = {name: (tmp_path / name).read_bytes() for name in ("results.json", DELTA, HEAD)}
    for name, content in good.items():
        for bad in (content[: len(content) // 2], b"", b"\xff" * 50):
            (tmp_path / name).write_bytes(bad)
            with pytest.raises(ValueError, match=r"\."):
                load_run(tmp_path)
        (tmp_path / name).write_bytes(content)
    results = json.loads(good["results.json"])
    results["config"]["backbone"] = "nothing"
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="Unknown backbone"):
        load_run(tmp_path)
    (tmp_path / "results.json").write_bytes(good["results.json"])
    load_run(tmp_path)


def test_models_that_classify_in_another_way_are_not_saved(tmp_path):
    assert not save_classifier(nn.Linear(2, 2), {}, tmp_path, [], {"backbone": "embedded"})
    assert not list(tmp_path.iterdir())
