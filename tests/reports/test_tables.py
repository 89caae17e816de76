import csv
import json
import shutil
import subprocess

import pytest
from tiny_runs import results

from mist_avalanche import cli
from mist_avalanche.reports import columns, markup, summary, tables

AWKWARD = r"a_b & 50 % of #1 {x} $y$ \z ~ ^"


def runs(*values, **more):
    made = [{**results(), "timing": {"total": 3.0}, **more} for _ in values]
    for run, value in zip(made, values, strict=True):
        run["metrics"] = dict.fromkeys(summary.METRICS, value)
    return made


METHODS = {
    "simplecil": runs(50.0, 52.0),
    "simplecil+mist": runs(60.0, 62.0),
    "naive": runs(10.0, 10.0),
    "joint": runs(90.0, 90.0),
}


def test_best_is_bold_and_second_underlined_by_the_mean():
    assert columns.ranks(METHODS, "A_T") == {"simplecil+mist": 1, "simplecil": 2}
    assert columns.ranks(METHODS, "forgetting") == {"naive": 1, "simplecil": 2}
    tied = {"a": runs(1.04), "b": runs(1.0), "c": runs(0.5)}
    assert columns.ranks(tied, "A_T") == {"a": 1, "b": 1, "c": 2}
    assert columns.ranks({"a": runs(1.0), "b": runs(2.0)}, "A_T") == {"b": 1}
    assert columns.ranks({"a": runs(1.0)}, "A_T") == {}


def test_marks_of_every_format():
    assert r"\textbf{61.0} $\pm$ 1.4" in tables.table(METHODS, "latex")
    assert r"\underline{51.0} $\pm$ 1.4" in tables.table(METHODS, "latex")
    assert "<b>61.0</b> ± 1.4" in tables.table(METHODS, "html")
    assert "<u>51.0</u> ± 1.4" in tables.table(METHODS, "html")
    assert "**61.0** ± 1.4" in tables.table(METHODS, "pipe")
    assert "<ins>51.0</ins> ± 1.4" in tables.table(METHODS, "pipe")
    plain = tables.table(METHODS)
    assert "61.0 ± 1.4" in plain
    assert "*" not in plain
    assert len({len(line) for line in tables.table(METHODS, "pipe").splitlines()}) == 1


def test_columns_are_chosen():
    text = tables.table(METHODS, "latex", "A_bar, A_T")
    assert r"Method & Seeds & $\bar A$ & $A_T$ \\" in text
    assert columns.chosen(None) == summary.METRICS
    for wrong in ("A_T,b", "A_T,A_T", ""):
        with pytest.raises(ValueError, match="column"):
            columns.chosen(wrong)


def test_the_command_refuses_columns_that_are_not_known(tmp_path, capsys):
    arguments = ["--columns", "A_T,speed", "--output", str(tmp_path / "a"), "--quiet"]
    assert cli.main(["compare", *arguments]) == 1
    message = capsys.readouterr().err
    assert "Unknown column 'speed'. Use A_T, A_bar, A_new, forgetting." in message
    assert not (tmp_path / "a").exists()


def test_files(tmp_path):
    file = tables.write_tables(METHODS, tmp_path, "comparison", "A_T")
    assert file.read_text().splitlines()[0].split() == [
        "|",
        "method",
        "|",
        "seeds",
        "|",
        "A_T",
        "|",
    ]
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "comparison.csv").open())}
    row = rows["simplecil+mist"]
    assert (row["name"], row["seeds"], float(row["A_T"])) == ("SimpleCIL + MIST", "2", 61.0)
    assert json.loads((tmp_path / "comparison.json").read_text())["naive"]["metrics"]["A_T"] == {
        "mean": 10.0,
        "std": 0.0,
    }
    assert {f.name for f in tmp_path.iterdir()} == {
        f"comparison{part}.{suffix}"
        for part in ("", "-costs")
        for suffix in ("md", "tex", "csv", "json")
    }


def test_costs(tmp_path):
    counts = {"total": 400, "updated": 7}
    methods = {"a": runs(1.0, 2.0, parameters=counts, memory=3 * 2**20), "old": runs(1.0)}
    first, last = tables.cost_table(methods, "pipe").splitlines()[2:]
    assert [c.strip() for c in first.split("|")[1:-1]] == ["a", "2", "3", "3", "7", "1.75"]
    assert [c.strip() for c in last.split("|")[1:-1]] == ["old", "1", "3", "", "", ""]


def test_text_is_no_markup():
    assert markup.as_html(["a"], [[markup.Cell("<b>&")]]).count("<b>") == 0
    assert r"\textbackslash{}z" in tables.table({AWKWARD: runs(1.0)}, "latex")
    assert r"a\|b" in tables.table({"a|b": runs(1.0)}, "pipe")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles_as_it_is(tmp_path):
    tables.write_tables({**METHODS, AWKWARD: runs(1.0)}, tmp_path, "comparison")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        "\\begin{table}\\input{comparison.tex}\\end{table}"
        "\\begin{table}\\input{comparison-costs.tex}\\end{table}\\end{document}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "2 pages" in done.stdout or "1 page" in done.stdout
