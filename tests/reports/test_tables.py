import csv
import json

import pytest
from made_up import comparison, results

from mist_avalanche.reports import cost_table, table, write_tables

METHODS = comparison(
    {"simplecil": (50.0, 52.0), "simplecil+mist": (60.0, 62.0), "naive": (9.0, 9.0), "joint": (90,)}
)


@pytest.mark.parametrize(
    ("style", "best"),
    [
        ("latex", r"\textbf{61.0} $\pm$ 1.4"),
        ("html", "<b>61.0</b> ± 1.4"),
        ("pipe", "**61.0** ± 1.4"),
        ("simple", " 61.0 ± 1.4"),
    ],
)
def test_best_is_bold(style, best):
    text = table(METHODS, style, ["A_T"])
    assert best in text
    assert "SimpleCIL + MIST" in text
    metrics = {**results()["metrics"], "forgetting": -1.0}
    negative = {"a": [results()], "b": [results(metrics=metrics)]}
    assert best[: best.index(" ", 1)].replace("61", "-1") in table(negative, style)


def test_latex_is_a_booktabs_table():
    lines = table(METHODS, "latex", "A_bar, A_T").splitlines()
    assert [line for line in lines if line.startswith("\\")] == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert lines[2].split() == ["method", "&", "seeds", "&", r"$\bar", "A$", "&", "$A_T$", r"\\"]
    assert [line.count("&") for line in lines if line.endswith(r"\\")] == [3] * 5


def test_names_are_no_markup():
    methods = {r"a_b & 50 % of #1 {x} $y$ \z ~ ^ <b>": [results()]}
    latex = table(methods, "latex")
    for escaped in (r"a\_b", r"\&", r"\%", r"\#", r"\{x\}", r"\$y\$", r"\textbackslash{}z"):
        assert escaped in latex
    assert "&lt;b&gt;" in table(methods, "html")


def test_columns_are_chosen_by_name():
    assert table(METHODS, columns="A_bar,A_T").split()[:4] == ["method", "seeds", "A_bar", "A_T"]
    with pytest.raises(ValueError, match="'speed'"):
        table(METHODS, columns="A_T,speed")


def test_costs_are_means_and_empty_where_not_measured():
    runs = [results(timing={"total": total}) for total in (2.0, 4.0)]
    text = cost_table({"a": runs, "b": [results(memory=None)]}, "pipe")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert rows == [["a", "2", "3", "3", "1.75"], ["b", "1", "3", "", "1.75"]]


def test_files_have_all_numbers(tmp_path):
    file = write_tables(METHODS, tmp_path, "comparison", "A_T")
    assert file == tmp_path / "comparison.md"
    assert {f.name for f in tmp_path.iterdir()} == {
        *(f"comparison.{suffix}" for suffix in ("md", "tex", "csv", "json")),
        *(f"comparison-costs.{suffix}" for suffix in ("md", "tex")),
    }
    assert "A_bar" not in file.read_text()
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    assert numbers["simplecil"]["A_T_std"] == pytest.approx(2**0.5)
    assert numbers["simplecil+mist"]["memory"] == 3 * 2**20
    with (tmp_path / "comparison.csv").open() as lines:
        rows = {row.pop("method"): row for row in csv.DictReader(lines)}
    assert {k: {n: str(v) for n, v in row.items()} for k, row in numbers.items()} == rows
