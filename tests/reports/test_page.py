import argparse
import json
import re

import pytest
from made_up import comparison, results
from matplotlib.text import Text

from mist_avalanche.cli import inspect
from mist_avalanche.reports import write_page
from mist_avalanche.reports.figures import drawings, write_figures

METHODS = comparison({"ranpac": (70.0, 71.0, 69.0), "ranpac+mist": (72.0, 74.0, 70.0)})
METHODS["naive"] = [results(a_t=10.0)]


def test_every_figure_is_a_column_wide_with_readable_text():
    for drawing in drawings({**METHODS, "a" * 40: [results(n=20)]}):
        drawing.figure.draw_without_rendering()
        texts = drawing.figure.findobj(Text)
        assert drawing.figure.get_figwidth() == 3.3
        assert min(text.get_fontsize() for text in texts if text.get_text()) >= 8, drawing.file
        assert drawing.figure.get_tightbbox().width <= 3.3 * 1.02, drawing.file


def test_figures_of_other_methods_are_removed(tmp_path):
    write_figures({"a": [results()], "b": [results()]}, tmp_path)
    write_figures({"b": [results()]}, tmp_path)
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {f"{n}.{s}" for n in ("accuracy", "matrix-b") for s in ("png", "pdf")}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(
        METHODS,
        path,
        "a & b",
        command="compare '<x>'",
        notes={"naive": "changes <nothing>"},
        failed=["Naive, seed 1, failed: <error>"],
    )
    return path.read_text()


def test_page_needs_no_other_file(page):
    assert not re.search(r"(src|href)=[\"']?[^#\"']", page.replace("xlink:href", "xlink"))
    assert "<script" not in page
    assert "@import" not in page


def test_page_follows_the_readers_colours(page):
    assert "color-scheme: light dark" in page
    assert "stroke: currentColor" in page
    assert "#000000" not in page


def test_page_says_what_was_compared(page):
    assert page.count("<svg ") == page.count('<svg role="img" aria-label="') == 5
    for text in (
        "<h1>a &amp; b</h1>\n<p class=lead>RanPAC + MIST has the highest A_T",
        "changes &lt;nothing&gt;",
        "failed: &lt;error&gt;",
        "compare &#x27;&lt;x&gt;&#x27;",
        "&quot;order_seed&quot;: 1993",
    ):
        assert text in page, text


def test_inspect_prints_where_mist_may_change_the_backbone(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    folder = tmp_path / "seed-0"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results(mist=True)))
    inspect.execute(parser.parse_args([str(folder)]))
    assert "blocks.0.attn.qkv.weight" in capsys.readouterr().out

    (folder / "results.json").write_text(json.dumps(results()))
    with pytest.raises(ValueError, match="without MIST"):
        inspect.execute(parser.parse_args([str(folder / "results.json")]))
    with pytest.raises(FileNotFoundError, match="seed-0"):
        inspect.execute(parser.parse_args([str(tmp_path)]))
