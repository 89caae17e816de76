"""What README, docs and examples show: snippets that run, commands that parse, names that exist."""

import json
import re
import runpy
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from data_layouts import class_folders, photos
from safetensors.torch import load_file
from tiny_runs import config

from mist_avalanche import cli, runs
from mist_avalanche.benchmarks import glyphs
from mist_avalanche.cli.compare import method
from mist_avalanche.deltas import apply_delta
from mist_avalanche.models import create_backbone
from mist_avalanche.models.backbones import EMBEDDED_WEIGHTS
from mist_avalanche.runs import RunConfig, run, run_methods
from mist_avalanche.strategies.registry import STRATEGIES, register

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = [*(ROOT / "examples").glob("*.py"), ROOT / "studies" / "pretrain_embedded_backbone.py"]
# arguments, and what is printed
EXAMPLES = {
    "compare_baselines.py": ([], r"Streaming LDA"),
    "custom_model.py": ([], r"all +\d+ +\d+ +(4\.\d\d|5\.00)%"),
    "own_strategy.py": ([], r"Top1_Acc_Stream"),
    "paper_table.py": (["--dry-run", "--settings", "s.json"], r"slca\+mist +train_epochs=50\W.*=2"),
    "plug_into_your_strategy.py": ([], r"updated in the last step: 0\.\d+%"),
    "own_images.py": (
        ["photos", "--backbone", "embedded", "--experiences", "2"],
        r"after .*, .*: \d",
    ),
    "pretrain_embedded_backbone.py": (["--epochs", "1", "--renderings", "1"], r"mean: \d"),
    "prompts.py": ([], r"experts: 3; "),
    "run_split_imagenet_r.py": (
        shlex.split("--dataset-root . --backbone embedded --experiences 3 --num-workers 0"),
        r"A_T \d+\.\d\d %",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch, short_tuning):
    """A working directory with data; few images of each glyph, and few epochs of tuning."""
    class_folders(tmp_path / "photos", photos())
    class_folders(tmp_path / "imagenet-r", photos())
    settings = {"slca": {"strategy_args": {"train_epochs": 50}, "mist_args": {"tune_epochs": 2}}}
    (tmp_path / "s.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(glyphs, "N_TRAIN", 6)
    monkeypatch.setattr(glyphs, "N_TEST", 3)
    return tmp_path


def snippets(*pages):
    for page in pages:
        yield from re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def execute(*codes, **names):
    for code in codes:
        exec(compile(code, "snippet", "exec"), names)
    return names


def commands(text):
    """Whole commands of a page, in blocks and between backquotes."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(mist-avalanche [^`]*--[^`]*)`", text)
    for line in lines:
        found = re.search(r"^mist-avalanche (.*)", line.partition("   #")[0])
        if found and not re.search(r"…|COMMAND|--help|--version", line):
            yield shlex.split(found[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_parse_and_files_exist(page):
    text = page.read_text()
    for command in commands(text):
        args = cli.parser_for(command[0]).parse_args(command)
        for name in (getattr(args, "strategies", None) or "simplecil").split(","):
            strategy = method(name.strip(), RunConfig()).strategy
            assert ":" in strategy or strategy in STRATEGIES, command
    named = re.findall(r"\b(?:examples|studies|tests|mist_avalanche)/[\w/]+\.\w+", text)
    linked = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    for file in [*(ROOT / name for name in named), *(page.parent / name for name in linked)]:
        assert file.exists(), file


def test_every_page_is_in_the_site():
    docs = ROOT / "docs"
    listed = re.findall(r"^(?:.*<)?([\w/-]+)>?$", (docs / "index.md").read_text(), re.M)
    pages = [*docs.glob("*.md"), *docs.glob("reference/*.rst")]
    assert {p.relative_to(docs).with_suffix("").as_posix() for p in pages} - {"index"} <= {*listed}


@pytest.mark.slow
def test_the_site_s_table_of_strategies_is_made_from_the_registry():
    pytest.importorskip("sphinx")
    assert "```{strategy-table}" in (ROOT / "docs" / "strategies.md").read_text()
    register("mine", title="Mine", paper="arXiv 2505.19943", stores="a secret")(
        type("Mine", (), {})
    )
    directive = runpy.run_path(str(ROOT / "docs" / "conf.py"))["StrategyTable"]
    table = directive.run(SimpleNamespace(parse_text_to_nodes=lambda text: text))
    assert {row.split("|")[1].strip() for row in table.splitlines()[2:]} == {*STRATEGIES}
    assert re.search(r"\| Mine +\| \[2505.19943\]\(https\S+\) +\| any +\| a secret +\|", table)


def test_page_of_results_has_every_key(tmp_path):
    run(config(mist=True), tmp_path, progress=False)
    found = json.loads((tmp_path / "results.json").read_text())
    page = (ROOT / "docs" / "results-json.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(found)
    for part in ("metrics", "timing", "parameters", "mist", "inputs"):
        assert all(f"`{key}`" in page for key in found[part]), part


@pytest.mark.parametrize("name", ["benchmarks", "strategies"])
def test_links_at_the_top_lead_into_the_package(name):
    link = ROOT / name
    assert not link.is_symlink() or link.resolve() == ROOT / "mist_avalanche" / name
    assert link.is_symlink() or link.read_text() == f"mist_avalanche/{name}"


def test_readme_and_deltas(folder, capsys):
    codes = snippets("README.md", "docs/deltas.md")
    names = execute(*(code for code in codes if "huggingface_hub" not in code))
    tuned, base = names["model"][0].state_dict(), create_backbone().state_dict()
    assert all(torch.equal(v, base[k]) for k, v in names["base"].state_dict().items())  # reverted
    apply_delta(names["base"], "glyphs.safetensors")
    assert all(torch.equal(v, tuned[k]) for k, v in names["base"].state_dict().items())
    assert 0 < names["mist"].selection.fraction <= 0.05
    assert 0 < names["mist"].updated_fraction < 0.006
    assert "selected" in capsys.readouterr().out


def test_readme_run_resumes(folder):
    first, second = snippets("README.md")
    small = second.replace("RanPAC(", "RanPAC(n_random_features=100, ")
    done = []
    for stops in (True, False):
        names = execute(first[: first.index("strategy =")], small)
        whole, strategy = names["benchmark"], names["strategy"]
        streams = {"train_stream": whole.train_stream[:2], "test_stream": whole.test_stream[:1]}
        names["benchmark"] = SimpleNamespace(class_names=whole.class_names, **streams)

        def train(experience, strategy=strategy, stops=stops):
            if stops and done:
                raise KeyboardInterrupt
            done.append(experience.current_experience)
            type(strategy).train(strategy, experience)

        strategy.train = train
        with pytest.raises(KeyboardInterrupt) if stops else nullcontext():
            execute(*snippets("docs/resume.md"), **names)
    assert done == [0, 1]


@pytest.mark.parametrize(
    "page", ["add-mist", "own-images", "own-backbone", "own-strategy", "prompts"]
)
def test_guide(folder, capsys, page):
    names = {}
    if page == "own-strategy":  # whose head is in the example
        names = runpy.run_path(str(ROOT / "examples" / "own_strategy.py"))
    names = execute(*snippets(f"docs/{page}.md"), **names)
    if page == "own-strategy":
        assert names["LDA"](model=create_backbone())
        head = names["MeanHead"](2)
        head.update(torch.eye(2), torch.tensor([0, 2]))
        assert head(torch.eye(2)).argmax(1).tolist() == [0, 2]
    else:
        assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.name for p in SCRIPTS))
def test_example(folder, monkeypatch, capsys, name):
    arguments, printed = EXAMPLES[name]
    (script,) = (str(p) for p in SCRIPTS if p.name == name)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    if name == "compare_baselines.py":  # without processes, which would not know of the fixture
        monkeypatch.setattr(runs, "run_methods", lambda plan, **_: run_methods(plan))
    runpy.run_path(script, run_name="__main__")
    assert re.search(printed, capsys.readouterr().out)
    if name == "pretrain_embedded_backbone.py":
        made, shipped = load_file("embedded.safetensors"), load_file(EMBEDDED_WEIGHTS)
        assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in shipped.items()}


def test_example_of_imagenet_r_without_data(tmp_path, monkeypatch):
    script = str(ROOT / "examples" / "run_split_imagenet_r.py")
    monkeypatch.setattr(sys, "argv", [script, "--dataset-root", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"(?s)No copy of ImageNet-R.*--benchmark glyphs"):
        runpy.run_path(script)


@pytest.mark.slow
def test_own_strategy_in_a_comparison(folder):
    (words,) = commands((ROOT / "docs" / "own-strategy.md").read_text())
    words = [word.replace("./examples", str(ROOT / "examples")) for word in words]
    less = ["--experiences", "2", "--seeds", "1", "--jobs", "1", "--output", "out", "--quiet"]
    assert cli.main([*words, *less]) == 0
    table, report = (Path("out", name).read_text() for name in ("comparison.md", "report.html"))
    methods = ["SimpleCIL + MIST", "LDA", "LDA + MIST"]
    assert re.findall(r"^\| (\w.*?) +\|", table, re.M) == ["method", *methods]
    assert "LDA + MIST" in report


@pytest.mark.slow
def test_notebook(capsys):
    text = (ROOT / "examples" / "tour.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    code = code.replace("N_EXPERIENCES = 10", "N_EXPERIENCES = 2")
    names = execute(code.replace("TUNE_EPOCHS = 60", "TUNE_EPOCHS = 2"))
    assert {len(curve) for curve in names["curves"].values()} == {2}
    assert names["plugin"].selection.fraction <= 0.05
    assert "predicted: " in capsys.readouterr().out
    assert not any(cell["outputs"] for cell in cells)


def test_make_has_every_target_that_is_named():
    targets = {*re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["tests"]["steps"]]
    called = {step.removeprefix("make ") for step in steps if step}
    assert called == {"lint", "types", "check", "slow", "docs", "wheel"} <= targets
    for page in PAGES:
        assert {*re.findall(r"`make (\w+)`", page.read_text())} <= targets, page


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_forms_for_issues_are_whole(form):
    content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert content.keys() == {"name", "description", "labels", "body"}
    for part in content["body"]:
        assert part["type"] in ("textarea", "input", "checkboxes")
        assert part["id"].isidentifier()
        assert part["attributes"]["label"]


def test_both_titles_of_the_paper_are_cited():
    for name in ("README.md", "CITATION.cff"):
        text = " ".join((ROOT / name).read_text().replace("{PTM}", "PTM").split())
        for title in ("Sparse Tuning Enhances Plasticity in PTM-based", "Beyond Freezing: Sparse"):
            assert title in text, (name, title)


def test_readme_says_at_which_rate_tuning_again_lost():
    text = (ROOT / "README.md").read_text()
    command = text.index("--strategy ranpac --mist")
    assert "at a learning rate of 0.01" in text[command : command + 900]
