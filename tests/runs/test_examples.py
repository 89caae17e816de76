"""examples/paper_table.py; tests/test_docs.py has the others."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "paper_table.py"


def paper_table(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_plan_has_the_settings_of_each_host(tmp_path, monkeypatch, capsys):
    settings = {"slca": {"strategy_args": {"train_epochs": 7}, "mist_args": {"lr": 0.5}}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    paper_table(monkeypatch, "--dry-run", "--settings", tmp_path / "settings.json", "--lr", "0.25")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    hosts = ("simplecil", "ranpac", "l2p", "dualprompt", "ease", "slca")
    assert {label for host in hosts for label in (host, f"{host}+mist")} <= lines.keys()
    assert "train_epochs=7" in lines["slca"]
    assert "lr=0.5" in lines["slca+mist"]
    assert "MIST" not in lines["slca"]
    assert "lr=0.25" in lines["ranpac+mist"]


def test_unknown_settings(tmp_path, monkeypatch):
    file = tmp_path / "settings.json"
    for settings in ({"naive": {}}, {"slca": {"lr": 1}}, {"slca": {"mist_args": {"nothing": 1}}}):
        file.write_text(json.dumps(settings))
        with pytest.raises(SystemExit, match=r"naive|'lr'|nothing"):
            paper_table(monkeypatch, "--dry-run", "--settings", file)
