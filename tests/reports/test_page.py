import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from tiny_runs import results

from mist_avalanche.reports.page import write_page
from mist_avalanche.reports.words import lead
from mist_avalanche.runs.ablations import sentences


@pytest.fixture
def page(tmp_path):
    methods = {"naive": [results()], "simplecil+mist": [results(mist=True)] * 2}
    said = {"command": "mist-avalanche compare --x '<y>'", "notes": {"naive": "changes <nothing>"}}
    write_page(methods, tmp_path / "report.html", "a & b", **said)
    return tmp_path / "report.html"


def test_page_needs_nothing_else_and_says_its_pictures_in_words(page):
    text = page.read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text.replace("http://www.w3.org", ""))
    assert "<script" not in text
    assert "<h1>a &amp; b</h1>" in text
    assert "&lt;simplecil&gt;" in text
    pictures = re.findall(r"<svg role=.img. aria-label=.([^>]*?). ", text)
    assert len(pictures) == text.count("<svg ") == 8
    assert "Naive ends at 75.0 %" in text
    assert "shared with the selection before: 50 %" in text
    assert "#123456" not in text
    assert "Taken for a class of their own experience: 70 %, 70 %, 70 %, 70 %." in text
    assert "class 0 as class 1 (3 images); class 2 as class 0 (1 image)" in text


def test_page_says_how_it_was_made(page):
    text = page.read_text()
    for part in (
        "mist-avalanche compare --x &#x27;&lt;y&gt;&#x27;",
        "<td class=note>changes &lt;nothing&gt;",
        "torch 2",
        "<td>110<td>15<td>13.64<td>10",  # entries, may move, share, always
    ):
        assert part in text, part
    assert re.search(r"date<td class=note>20\d\d-\d\d-\d\d \d\d:\d\d", text)


def test_first_line_makes_the_point():
    hosts = [results(seed=i, a_t=a) for i, a in enumerate((70.0, 71.0, 69.0))]
    tuned = [results(mist=True, seed=i, a_t=a) for i, a in enumerate((72.0, 74.0, 70.0))]
    methods = {"ranpac": hosts, "ranpac+mist": tuned, "joint": [results(a_t=90.0)]}
    assert lead(methods) == (
        "RanPAC + MIST has the best A_T: 72.0 ± 2.0 % over 3 seeds. MIST adds +2.0 points "
        "(95 % interval -0.5 to +4.5, 3 seeds) to RanPAC."
    )
    one = {"ranpac": hosts[:1], "ranpac+mist": tuned[:1]}
    assert lead(one).endswith("MIST adds +2.0 points (1 seed, no interval) to RanPAC.")
    assert lead({"naive": hosts[:1]}) == "Naive has an A_T: 70.0 % over 1 seed."
    part = {**hosts[0], "config": {**hosts[0]["config"], "first": 2, "experiences": 10}}
    assert lead({"naive": [part]}).endswith("over 1 seed, after 2 of 10 experiences.")


def test_every_ablation_has_its_sentence():
    assert sentences(["ranpac", "ranpac+dense"])["ranpac+dense"].startswith("Every entry")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")
@pytest.mark.parametrize("width", [400, 1600])
def test_page_in_a_browser(page, tmp_path, width):
    shots = {}
    for scheme in (0, 1):  # dark, light
        file = tmp_path / f"{width}-{scheme}.png"
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                f"--blink-settings=preferredColorScheme={scheme}",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},2600",
                f"--screenshot={file}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        shots[scheme] = np.asarray(Image.open(file).convert("L"), dtype=float)
        assert shots[scheme].shape == (2600, width)
        assert shots[scheme].std() > 5  # something is drawn
    assert np.median(shots[0]) < 60
    assert np.median(shots[1]) > 200
