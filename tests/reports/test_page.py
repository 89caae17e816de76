import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from tiny_runs import results

from mist_avalanche.reports.page import write_page


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
    assert len(pictures) == text.count("<svg ") == 6
    assert "Naive ends at 75.0 %" in text
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
