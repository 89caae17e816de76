import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mist_avalanche.reports.page import write_page


def results(t=4, mist=False):
    rows = [[90.0 - 10 * (k - i) for i in range(k + 1)] for k in range(t)]
    found = {
        "metrics": {"A_T": 75.0, "A_bar": 80.0, "A_new": 90.0, "forgetting": 15.0},
        "accuracy": rows,
        "test_images": [10] * t,
        "classes_seen": [5 * (k + 1) for k in range(t)],
        "timing": {"total": 3.0},
        "config": {"strategy": "<simplecil>"},
        "environment": {"torch": "2"},
    }
    if mist:
        layers = [["blocks.0.attn.qkv.weight", 5, 100, False], ["norm.bias", 10, 10, True]]
        found["mist"] = {"selected_fraction": 0.04, "overlaps": [0.5], "layers": layers}
    return found


@pytest.fixture
def page(tmp_path):
    methods = {"naive": [results()], "simplecil+mist": [results(mist=True)] * 2}
    write_page(methods, tmp_path / "report.html", "a & b")
    return tmp_path / "report.html"


def test_page_needs_nothing_else_and_says_its_pictures_in_words(page):
    text = page.read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text.replace("http://www.w3.org", ""))
    assert "<script" not in text
    assert "<h1>a &amp; b</h1>" in text
    assert "&lt;simplecil&gt;" in text
    pictures = re.findall(r"<svg role=.img. aria-label=.([^>]*?). ", text)
    assert len(pictures) == text.count("<svg ") == 5
    assert "naive ends at 75.0 %" in text
    assert "shared with the selection before: 50 %" in text
    assert "#123456" not in text


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
