"""What README and docs show: commands that parse, snippets that run, links and keys that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
from data_layouts import class_folders, photos
from tiny_runs import MIST, tiny_benchmark

from mist_avalanche.cli.options import parser
from mist_avalanche.runs import RunConfig, run
from mist_avalanche.strategies.names import STRATEGIES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text):
    """Whole commands of a page, in blocks and between backquotes."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(mist-avalanche [^`]*--[^`]*)`", text)
    for line in lines:
        line = line.partition("   #")[0]
        found = re.search(r"(?:^mist-avalanche|-m mist_avalanche) (.*)", line)
        if found and not re.search(r"…|COMMAND", line):
            yield found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_parse(page):
    for command in commands(page.read_text()):
        if re.search("--(help|version)", command):
            continue
        args = parser().parse_args(shlex.split(command))
        for name in getattr(args, "strategies", "").split(","):
            strategy, *additions = name.strip().split("+")
            assert not strategy or strategy in STRATEGIES, command
            assert {*additions} <= {"mist", "drift"}, command


@pytest.mark.usefixtures("short_tuning")
@pytest.mark.parametrize("name", ["add-mist", "own-images", "own-backbone", "prompts"])
def test_guides_run(name, tmp_path, monkeypatch, capsys):
    class_folders(tmp_path / "photos", photos())
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.S)
    exec(compile("\n".join(code), name, "exec"), {})
    assert capsys.readouterr().out


def test_page_of_results_has_every_key(tmp_path):
    with tiny_benchmark():
        run(RunConfig(mist=True, mist_args=MIST), tmp_path, progress=False)
    found = json.loads((tmp_path / "results.json").read_text())
    keys = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "results-json.md").read_text(), re.M)
    assert keys == list(found)
    page = (ROOT / "docs" / "results-json.md").read_text()
    for part in ("metrics", "timing", "parameters", "mist", "inputs"):
        assert all(f"`{key}`" in page for key in found[part]), part


def test_every_page_is_in_the_site():
    listed = re.findall(r"^(?:.*<)?([\w/-]+)>?$", (ROOT / "docs" / "index.md").read_text(), re.M)
    pages = {p.stem for p in PAGES if p.parent.name == "docs"} - {"index"}
    assert pages <= {*listed}


def test_notebook_runs(capsys):
    text = (ROOT / "examples" / "tour.ipynb").read_text()
    names = {}
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            for name, value, less in (("N_EXPERIENCES", 10, 2), ("TUNE_EPOCHS", 100, 2)):
                code = code.replace(f"{name} = {value}", f"{name} = {less}")
            exec(compile(code, "tour.ipynb", "exec"), names)
    assert {len(curve) for curve in names["curves"].values()} == {2}
    assert names["plugin"].selection.fraction <= 0.05
    assert "predicted: " in capsys.readouterr().out
    assert not re.search(r"/(home|root|tmp|work|usr)/", text)
