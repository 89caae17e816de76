"""Learning rates tried on the first experience's training images."""

from types import SimpleNamespace

import pytest
import torch
from tiny_runs import config

from mist_avalanche.runs import suggest as module
from mist_avalanche.runs.suggest import Trial, best, split_classes, suggest


def test_a_fifth_of_each_class_is_held_out_and_no_row_is_lost():
    targets = torch.tensor([3] * 10 + [1] * 5 + [7] * 2 + [0] * 20 + [5] * 11)
    halves, held_out = split_classes(targets, 0)
    classes = [set(targets[half].tolist()) for half in halves]
    assert [len(c) for c in classes] == [2, 3]
    assert not classes[0] & classes[1]
    rows = torch.cat([*halves, held_out])
    assert rows.sort().values.tolist() == list(range(len(targets)))
    held = {c: int((targets[held_out] == c).sum()) for c in (0, 1, 3, 5, 7)}
    assert held == {0: 4, 1: 1, 3: 2, 5: 2, 7: 1}
    assert torch.equal(halves[0], split_classes(targets, 0)[0][0])


def test_too_little_to_try_on():
    with pytest.raises(ValueError, match="one image"):
        split_classes(torch.tensor([0, 0, 1, 1, 2, 2, 9]), 0)
    with pytest.raises(ValueError, match="2 classes"):
        suggest(config(), [1e-3])


def test_only_the_first_experience_s_training_images_are_used(monkeypatch, benchmark_of):
    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError("a test image was used")

    made = benchmark_of(n_classes=8, n_experiences=2, per_class=6)
    guarded = SimpleNamespace(
        train_stream=[made.train_stream[0], Forbidden()], test_stream=Forbidden()
    )
    monkeypatch.setattr(module, "make_benchmark", lambda _config: guarded)
    trials = suggest(config(mist=True), (1e-3, 0.3), 2)
    assert [t.lr for t in trials] == [None, 1e-3, 0.3]
    frozen = trials[0]
    assert (frozen.gain, frozen.half_width) == (0, 0)
    for trial in trials:
        assert 0 <= trial.accuracy <= 100
        assert 4 <= trial.n_images <= 8  # a fifth of four classes, twice
        assert abs(trial.gain - trial.accuracy + frozen.accuracy) < 60 * trial.half_width + 1e-4
    assert trials == suggest(config(mist=True), (1e-3, 0.3), 2)


def test_the_best_is_the_most_accurate_then_the_first():
    trials = [Trial(None, 50.0), Trial(1e-3, 60.0), Trial(1e-2, 60.0)]
    assert best(trials).lr == 1e-3
    assert best([*trials, Trial(1e-1, 61.0)]).lr == 1e-1
