import re
import sys

import pytest
from tiny_runs import MIST, tiny_benchmark

from mist_avalanche.runs import RunConfig, experiments, progress, run, run_methods
from mist_avalanche.runs.progress import Bar, Meter
from mist_avalanche.runs.work import work_of
from mist_avalanche.strategies.names import STRATEGIES

PLAN = [RunConfig(strategy="naive", experiences=2), RunConfig(experiences=2, seed=3)]
IMAGES = [20, 10], [5, 5]


@pytest.fixture
def shown(monkeypatch):
    """A terminal, for bars."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def meter(bar, i):
    return Meter(PLAN[i], lambda what, value: bar.hear(i, what, value))


def test_the_bar_knows_how_much_is_due_and_what_an_earlier_process_had(shown, monkeypatch):
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    due = [[w.images for w in work_of(c, *IMAGES)] for c in PLAN]
    # naive: 10 epochs with gradient, and evaluation; simplecil: every image once
    assert due == [[3 * 200 + 5, 3 * 100 + 10], [25, 15]]
    bar = Bar(PLAN, True)
    assert "0%" in str(bar._bar)
    first, second = meter(bar, 0), meter(bar, 1)
    with first.listening(*IMAGES, 1):  # one experience was done before
        assert (bar._bar.total, bar._bar.n, bar._bar.initial) == (sum(map(sum, due)), 605, 605)
        first.passed(100)
        assert bar._bar.n == 705
        first.passed(10**6)  # more than was due: only up to the end of the experience
        assert bar._bar.n == 915
        first.ended("experience 2 of 2, accuracy 50.0 %")
    bar.ended(0, "finished")
    assert "accuracy 50.0 %" in str(bar._bar)
    with second.listening(*IMAGES, 0):
        second.noted("MIST tuning, loss 1.0")
        assert "run 2 of 2, simplecil, seed 3" in str(bar._bar)
        assert "loss 1.0" in str(bar._bar)
    bar.ended(1, "failed")  # it failed: its images will not pass
    assert bar._bar.n == bar._bar.total
    assert bar._bar.n - bar._bar.initial == 310


def test_runs_that_were_finished_before_do_not_count_as_fast(shown):
    bar = Bar(PLAN, True)
    bar.ended(0, "finished")
    with meter(bar, 1).listening(*IMAGES, 0):
        assert bar._bar.n == bar._bar.initial == 915


def test_a_bar_of_several_at_a_time(shown):
    bar = Bar(PLAN, True, 2)
    assert "2 runs, 2 at a time" in str(bar._bar)
    bar.hear(1, "sized", IMAGES)
    bar.hear(1, "noted", "of no interest")
    bar.hear(1, "experience", "of no interest")
    bar.ended(1, "finished")
    assert "1 ended" in str(bar._bar)
    assert "no interest" not in str(bar._bar)
    assert bar._bar.n == 40


@pytest.mark.parametrize("mist", [False, True])
@pytest.mark.parametrize("strategy", [*STRATEGIES])
def test_what_is_heard_of_a_run_is_near_its_due(strategy, mist, tmp_path, monkeypatch):
    if strategy == "scr" and mist:
        pytest.skip("it refuses that")
    quick = {} if strategy in ("simplecil", "ranpac") else {"train_epochs": 2}
    config = RunConfig(
        experiences=3,
        strategy=strategy,
        strategy_args=quick,
        mist=mist,
        mist_args=MIST if mist else {},
    )
    heard, passed = [0], Meter.passed

    def count(self, images):
        heard[0] += images
        passed(self, images)

    monkeypatch.setattr(Meter, "passed", count)
    words = []
    monkeypatch.setattr(Bar, "hear", lambda _self, _i, what, value: words.append((what, value)))
    with tiny_benchmark():
        run_methods([(config, tmp_path)], progress=False)
    told = dict(words)
    due = sum(w.images for w in work_of(config, *told["sized"]))
    assert sum(value for what, value in words if what == "passed") == due
    assert 0.6 * due < heard[0] < 1.4 * due, f"{heard[0]} of {due}"


def test_the_bar_says_the_loss_of_mist(tmp_path, monkeypatch):
    words = []
    monkeypatch.setattr(Bar, "hear", lambda _self, _i, what, value: words.append((what, value)))
    with tiny_benchmark():
        run(RunConfig(experiences=3, mist=True, mist_args=MIST), tmp_path)
    notes = [value for what, value in words if what == "noted"]
    assert re.fullmatch(r"MIST tuning before experience 0, loss [\d.]+", notes[0])


def test_in_a_file_lines_say_how_far_it_is(tmp_path, capsys):
    with tiny_benchmark():
        run_methods([(c, tmp_path / c.label) for c in PLAN[1:]], 2)
    lines = capsys.readouterr().out.splitlines()
    pattern = (
        r"run 1 of 2, simplecil, seed 3: experience 1 of 3, accuracy [\d.]+ %; \d+% done, .* left"
    )
    assert re.fullmatch(pattern, lines[0])
    assert lines[-1].startswith("run 2 of 2, simplecil, seed 4: experience 3 of 3, accuracy ")
    assert lines[-1].endswith("; 100% done, 00:00 left")


def test_workers_tell_the_process_that_has_the_bar(monkeypatch):
    words = []
    monkeypatch.setattr(experiments, "_words", type("Queue", (), {"put": words.append}))
    experiments._tell(1, "passed", 5.0)
    assert words == [(1, "passed", 5.0)]
