import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mist_avalanche import backbones
from mist_avalanche.backbones import EMBEDDED, EMBEDDED_WEIGHTS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def short_tuning(monkeypatch):
    """The embedded backbone's defaults, but with four epochs of tuning."""
    default = backbones.DEFAULTS[EMBEDDED]
    short = replace(default, mist={**default.mist, "tune_epochs": 4})
    monkeypatch.setattr(backbones, "DEFAULTS", {EMBEDDED: short})


@pytest.mark.usefixtures("short_tuning")
def test_readme_snippet_runs(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert 0 < names["mist"].selection.fraction <= 0.05
    assert 0 < names["mist"].updated_fraction < 0.006
    assert "selected" in capsys.readouterr().out


@pytest.mark.usefixtures("short_tuning")
def test_example_plug_into_your_strategy(capsys):
    runpy.run_path(str(ROOT / "examples" / "plug_into_your_strategy.py"))
    assert "updated in the last step: 0." in capsys.readouterr().out


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
