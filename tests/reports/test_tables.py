import csv
import json

import pytest
from made_up import comparison, results

from mist_avalanche.reports import cost_table, table, write_page, write_tables
from mist_avalanche.reports.summary import described

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
    text = table(METHODS, style)
    assert best in text
    assert "SimpleCIL + MIST" in text
    metrics = {**results()["metrics"], "forgetting": -52.0}
    unlearned = {"a": [results()], "b": [results(a_t=75 + 1e-14, metrics=metrics)]}
    for marked in ("-52", "75") if style != "simple" else ():
        assert best[: best.index(" ", 1)].replace("61", marked) not in table(unlearned, style)


def test_latex_is_a_booktabs_table():
    lines = table(METHODS, "latex").splitlines()
    assert [line for line in lines if line.startswith("\\")] == [
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        *[r"\midrule"] * 3,  # below the heads, and between hosts
        r"\bottomrule",
        r"\end{tabular}",
    ]
    heads = [head.strip(" \\") for head in lines[2].split("&")]
    assert heads[:5] == ["method", "seeds", "$A_T$", r"$\Delta$", r"$\bar A$"]
    assert heads[5:] == [r"$A_\mathrm{new}$", r"forgetting $\downarrow$"]
    assert [line.count("&") for line in lines if line.endswith(r"\\")] == [6] * 5
    assert lines[4:7] == [lines[4], lines[5], r"\midrule"]


def test_methods_with_one_host_stand_together_and_show_the_gain():
    shuffled = {
        label: METHODS[label] for label in ("simplecil", "joint", "naive", "simplecil+mist")
    }
    rows = [line.split("  ") for line in table(shuffled).splitlines()[2:]]
    assert [row[0] for row in rows] == ["SimpleCIL", "SimpleCIL + MIST", "Joint", "Naive"]
    assert [[cell.strip() for cell in row if cell.strip()][3] for row in rows][1] == "+10.0"


def test_names_are_no_markup():
    methods = {r"a_b & 50 % of #1 {x} $y$ \z ~ ^ <b>": [results()]}
    latex = table(methods, "latex")
    for escaped in (r"a\_b", r"\&", r"\%", r"\#", r"\{x\}", r"\$y\$", r"\textbackslash{}z"):
        assert escaped in latex
    assert "&lt;b&gt;" in table(methods, "html")


def test_costs_are_means_and_empty_where_not_measured():
    runs = [results(timing={"total": total}) for total in (2.0, 4.0)]
    replay = results(memory=None)
    replay["config"]["strategy_args"] = {"mem_size": 200}
    text = cost_table({"a": runs, "b": [replay]}, "pipe")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0][2:] == [
        *("CPU seconds", "GPU seconds", "peak memory (MiB)", "trained (k)", "added (k)"),
        *("stored images", "updated (%)"),
    ]
    assert rows[2:] == [
        ["a", "2", "", "3", "3", "9", "2", "0", "1.75"],
        ["b", "1", "5", "", "", "9", "2", "200", "1.75"],
    ]


def test_files_have_all_numbers(tmp_path):
    file = write_tables(METHODS, tmp_path, "comparison")
    assert file == tmp_path / "comparison.md"
    assert {f.name for f in tmp_path.iterdir()} == {
        *(f"comparison.{suffix}" for suffix in ("md", "tex", "csv", "json")),
        *(f"comparison-costs.{suffix}" for suffix in ("md", "tex")),
    }
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    assert numbers["simplecil"]["A_T_std"] == pytest.approx(2**0.5)
    assert numbers["simplecil+mist"]["memory"] == 3 * 2**20
    with (tmp_path / "comparison.csv").open() as lines:
        rows = {row.pop("method"): row for row in csv.DictReader(lines)}
    as_text = {
        k: {n: "" if v is None else str(v) for n, v in r.items()} for k, r in numbers.items()
    }
    assert as_text == rows
    assert (rows["joint"]["A_T_std"], rows["joint"]["test_images"]) == ("", "40")


def test_tables_say_what_they_are_of(tmp_path):
    part = comparison({"simplecil": (50.0,)})
    part["simplecil"][0]["config"] |= {"experiences": 10, "benchmark_args": {"data_seed": 2}}
    write_tables(part, tmp_path, "comparison")
    said = "After 4 of 10 experiences with 5 classes each, on 40 test images of glyphs (data_seed="
    for suffix in ("md", "tex"):
        text = (tmp_path / f"comparison.{suffix}").read_text()
        assert said in text.replace("\\_", "_")
        assert (r"data\_seed" in text) == (suffix == "tex")
    for name, caption in (("comparison", "Accuracy"), ("comparison-costs", "Costs")):
        text = (tmp_path / f"{name}.tex").read_text()
        assert rf"\caption{{{caption}" in text
        assert text.count("{") == text.count("}")
    numbers = json.loads((tmp_path / "comparison.json").read_text())["simplecil"]
    assert (numbers["experiences"], numbers["of_experiences"]) == (4, 10)
    assert numbers["A_T_std"] is None
    other = results(seed=1)
    other["test_images"] = [20] * 4
    other["environment"] = {**other["environment"], "torch": "1.0.7"}
    said_of_both, now = described({"a": [results(), other]}), results()["environment"]["torch"]
    assert "on 40 or 80 test images" in said_of_both
    assert said_of_both.endswith(f"Runs differ in torch 1.0.7 or {now}.")
    other["config"] |= {"mist": True, "strategy_args": {"joined": True}}
    assert "before and after tuning: RanPAC + MIST." in described({"ranpac+mist": [other]})
    write_page({"a": [results(), other]}, tmp_path / "page.html", "title")
    assert "&quot;torch&quot;: &quot;1.0.7 or" in (tmp_path / "page.html").read_text()
    write_page(part, tmp_path / "page.html", "title")
    assert said in (tmp_path / "page.html").read_text()
