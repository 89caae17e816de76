import matplotlib.text
import numpy as np
import pytest
from scipy import stats
from tiny_runs import results

from mist_avalanche._support.figures import COLUMN
from mist_avalanche.reports.gains import gains
from mist_avalanche.reports.pictures import pictures, write_figures
from mist_avalanche.reports.words import in_points
from mist_avalanche.strategies.names import COMPARED

SEEDS = [(70.0, 72.0), (71.0, 74.0), (69.0, 70.0)]


def methods(seeds=SEEDS):
    hosts = [results(seed=i, a_t=host) for i, (host, _) in enumerate(seeds)]
    with_mist = [results(mist=True, seed=i, a_t=tuned) for i, (_, tuned) in enumerate(seeds)]
    return {"ranpac": hosts, "ranpac+mist": with_mist[::-1], "naive": hosts[:1]}


def test_gains_are_paired_and_have_an_interval_of_student():
    (gain,) = gains(methods())
    assert (gain.label, gain.host, sorted(gain.differences)) == ("ranpac+mist", "ranpac", [1, 2, 3])
    low, high = stats.t.interval(0.95, 2, gain.mean, stats.sem(gain.differences))
    assert gain.half == pytest.approx((high - low) / 2)
    assert in_points(gain) == "+2.0 points (95 % interval -0.5 to +4.5, 3 seeds)"


def test_fewer_seeds_have_no_interval_and_others_no_pair():
    (gain,) = gains(methods(SEEDS[:2]))
    assert gain.half is None
    few = {**methods(), "ranpac": [results(seed=2, a_t=60.0)]}
    assert gains(few)[0].differences == [10.0]
    assert gains({"ranpac+mist": methods()["ranpac+mist"]}) == []
    assert gains({**methods(), "ranpac": [results(seed=9)]}) == []


@pytest.mark.parametrize(
    "found", [methods(), {name: [results(t=10, mist=True)] for name in COMPARED}]
)
def test_figures_are_a_column_wide_and_readable(found):
    for picture in pictures(found):
        figure = picture.figure
        figure.draw_without_rendering()
        assert figure.get_figwidth() == COLUMN
        texts = [
            t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()
        ]
        assert min(t.get_fontsize() for t in texts) >= 8, picture.title
        box = figure.get_tightbbox()
        assert box.width <= COLUMN * 1.02, picture.title
        assert all(axes.get_position().height > 0.1 for axes in figure.axes), picture.title


def test_files_of_three_formats_that_are_the_same_twice(tmp_path):
    for folder in ("a", "b"):
        write_figures(methods(), tmp_path / folder)
    files = {f.name: f.read_bytes() for f in (tmp_path / "a" / "figures").iterdir()}
    assert files == {f.name: f.read_bytes() for f in (tmp_path / "b" / "figures").iterdir()}
    one_each = {"accuracy", "gain", "tradeoff", "tuning-loss"}
    of_methods = {f"{kind}-{name}" for kind in ("matrix", "confusion") for name in methods()}
    of_methods |= {"selection-ranpac+mist"}
    assert {*files} == {
        f"{name}.{suffix}" for name in one_each | of_methods for suffix in ("png", "svg", "pdf")
    }
    assert np.all([len(content) > 2000 for content in files.values()])
