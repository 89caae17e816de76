import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data_layouts import class_folders, photos
from safetensors.torch import load_file

from mist_avalanche import runs
from mist_avalanche.deltas.delta import read_delta
from mist_avalanche.models.backbones import EMBEDDED_WEIGHTS

ROOT = Path(__file__).parent.parent


def snippets(*files):
    texts = ((ROOT / file).read_text() for file in files)
    return [code for text in texts for code in re.findall(r"```python\n(.*?)```", text, re.S)]


@pytest.mark.usefixtures("short_tuning")
def test_readme_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, _, resume = snippets("README.md", "docs/resume.md")
    for n_experiences in (1, 2):
        names = {}
        exec(compile(first[: first.index("for t,")], "README.md", "exec"), names)
        train, test = names["benchmark"].train_stream, names["benchmark"].test_stream
        few = SimpleNamespace(train_stream=train[:n_experiences], test_stream=test[:1])
        exec(compile(resume, "README.md", "exec"), names := {**names, "benchmark": few})
        assert names["checkpoint"].done == len(names["results"]) == n_experiences
    assert names["mist"].method.experience == 1


@pytest.mark.usefixtures("short_tuning")
def test_readme_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets("README.md", "docs/deltas.md"):
        exec(compile(snippet, "README.md", "exec"), names)
    tuned, written = names["model"][0].state_dict(), read_delta("glyphs.safetensors")
    assert all(torch.equal(tuned[k], v) for k, v in names["base"].state_dict().items())
    assert 0 < written.changed / written.total <= 0.05
    assert Path("glyphs.safetensors").stat().st_size < 0.1 * EMBEDDED_WEIGHTS.stat().st_size
    assert 0 < names["mist"].selection.fraction <= 0.05
    assert 0 < names["mist"].updated_fraction < 0.006
    assert "selected" in capsys.readouterr().out


@pytest.mark.usefixtures("short_tuning")
def test_example_plug_into_your_strategy(capsys):
    runpy.run_path(str(ROOT / "examples" / "plug_into_your_strategy.py"))
    assert "updated in the last step: 0." in capsys.readouterr().out


def test_example_custom_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "custom_model.py"))
    selected = re.search(r"selected: (\d\.\d+)%", capsys.readouterr().out)
    assert 4.5 < float(selected[1]) <= 5
    assert (tmp_path / "layers.png").stat().st_size > 5000


@pytest.mark.usefixtures("short_tuning")
def test_example_own_strategy(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_strategy.py"))
    moved = re.search(r"moved: (\d\.\d+)%", capsys.readouterr().out)
    assert 0 < float(moved[1]) <= 5


@pytest.mark.usefixtures("short_tuning")
def test_example_prompts(capsys):
    runpy.run_path(str(ROOT / "examples" / "prompts.py"))
    printed = capsys.readouterr().out
    assert float(re.search(r"after 3 experiences: (\d+\.\d)%", printed)[1]) > 30
    assert "experts: 3; " in printed


@pytest.mark.usefixtures("short_tuning")
def test_example_compare_baselines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_methods = runs.run_methods
    monkeypatch.setattr(
        runs, "run_methods", lambda plan, **_settings: run_methods(plan, progress=False)
    )
    runpy.run_path(str(ROOT / "examples" / "compare_baselines.py"), run_name="__main__")
    assert "Streaming LDA" in capsys.readouterr().out
    assert (tmp_path / "results" / "my-comparison" / "report.html").exists()


@pytest.mark.usefixtures("short_tuning")
@pytest.mark.parametrize("strategy", ["ranpac", "simplecil"])
def test_example_imagenet_r(tmp_path, monkeypatch, capsys, strategy):
    class_folders(tmp_path / "imagenet-r", photos())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = {
        "--dataset-root": tmp_path,
        "--strategy": strategy,
        "--backbone": "embedded",
        "--experiences": 3,
        "--num-workers": 0,
        "--output": tmp_path / "out",
    }
    script = str(ROOT / "examples" / "run_split_imagenet_r.py")
    monkeypatch.setattr(
        sys, "argv", [script, *(str(x) for pair in arguments.items() for x in pair)]
    )
    runpy.run_path(script)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["config"]["split"].startswith("80/20 by name hash")
    assert [len(row) for row in results["accuracy"]] == [1, 2, 3]
    assert f"A_T {results['metrics']['A_T']:.2f} %" in capsys.readouterr().out


def test_example_imagenet_r_without_data(tmp_path, monkeypatch, capsys):
    script = str(ROOT / "examples" / "run_split_imagenet_r.py")
    monkeypatch.setattr(sys, "argv", [script, "--dataset-root", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(script)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    for part in ("No copy of ImageNet-R", "data get imagenet-r", "2.19 GB", "--benchmark glyphs"):
        assert part in message


def test_example_pretraining_writes_weights_of_the_same_shape(tmp_path, monkeypatch):
    output = tmp_path / "w.safetensors"
    arguments = ["x", "--epochs", "1", "--renderings", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "pretrain_embedded_backbone.py"))
    made, shipped = load_file(output), load_file(EMBEDDED_WEIGHTS)
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in shipped.items()}


@pytest.mark.parametrize("name", ["benchmarks", "strategies"])
def test_links_at_the_top_lead_into_the_package(name):
    link = ROOT / name
    assert not link.is_symlink() or link.resolve() == ROOT / "mist_avalanche" / name
    assert link.is_symlink() or link.read_text() == f"mist_avalanche/{name}"
