"""Runs that are stopped and go on: the bits of the run that never was."""

import random
import shutil
from threading import Lock
from unittest import mock

import numpy as np
import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from compatibility import CASES, built, without_downloads
from test_compatibility import FAILING, REFUSED

from mist_avalanche import MISTPlugin
from mist_avalanche._progress import step_bar
from mist_avalanche.checkpoint import Checkpoint

MIST = {"tune_epochs": 2, "score_on": "every", "batch_size": 6, "lr": 0.01, "protect_rate": 0.01}
ALONE = (*REFUSED, "VAETraining")  # which MISTPlugin refuses


def made(table, name, folder, **changes):
    """A strategy, its stream and its checkpoint."""
    case = CASES[table, name]
    mist = MISTPlugin(**{**MIST, "verbose": False, "seed": 0, **dict(case.mist)})
    host, stream = built(case, [] if name in ALONE else [mist])
    return host, stream, Checkpoint(folder, host, stream, every=1e9, **changes)


def go_on(host, stream, checkpoint, keep=None):
    """Train and evaluate from the last saved experience on; weights and metrics then."""
    metrics = checkpoint.load([])
    for experience in stream.train_stream[checkpoint.done :]:
        with without_downloads():
            host.train(experience, eval_streams=[])
            found = host.eval(stream.test_stream[:1])
        metrics.append([float(v) for v in found.values() if isinstance(v, float)])
        checkpoint.save(metrics)
        if keep:
            shutil.copytree(checkpoint.folder, keep / str(checkpoint.done))
    return {k: v.clone() for k, v in host.model.state_dict().items()}, metrics, vars(host.clock)


def disturb():
    """Leave no generator as it was."""
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)


ORDINARY = [
    (table, name)
    for table, name in CASES
    if name not in (*FAILING, "JointTraining", "ExpertGateStrategy", "AETraining")  # large images
    and not name.startswith("plugins in the order")
]


@pytest.mark.parametrize(("table", "name"), ORDINARY)
def test_goes_on_with_the_same_bits(table, name, tmp_path):
    weights, metrics, clock = go_on(*made(table, name, tmp_path / "run"), keep=tmp_path)
    done = 2 if name == "AR1" else 1  # of three experiences; AR1's take long
    host, stream, checkpoint = made(table, name, tmp_path / str(done))
    disturb()
    again, metrics_again, clock_again = go_on(host, stream, checkpoint)
    assert again.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(again[key].nan_to_num(7.0), value.nan_to_num(7.0)), key
    assert (metrics_again, clock_again) == (metrics, clock)


class HoldsALock(SupervisedPlugin):
    def after_training_exp(self, strategy, **kwargs):
        self.lock = Lock()


def test_what_cannot_be_saved_is_named(tmp_path):
    host, stream, _ = made("Strategies", "Naive", tmp_path)
    host.plugins.append(HoldsALock())
    with pytest.raises(TypeError, match=r"Cannot save plugins\[\d\].lock, a _thread:lock"):
        go_on(host, stream, Checkpoint(tmp_path, host, stream))


def test_saving_changes_nothing(tmp_path):
    weights, _, _ = go_on(*made("Strategies", "Replay", tmp_path))
    host, stream, _ = made("Strategies", "Replay", tmp_path / "unused")
    for experience in stream.train_stream:
        host.train(experience, eval_streams=[])
        host.eval(stream.test_stream[:1])
    assert all(torch.equal(weights[key], value) for key, value in host.model.state_dict().items())


class Stopped(BaseException):
    pass


def stop_in_tuning(mist, at):
    """Stop after a number of steps of tuning in all, as a kill would."""
    keep, steps = mist.keeper, []

    class Stopping:
        take_up, pausing = keep.take_up, keep.pausing

        def after_step(self, strategy, stage, state):
            keep.after_step(strategy, stage, state)
            steps.append(stage)
            if len(steps) == at:
                raise Stopped

    mist.keeper = Stopping()


def in_steps(tmp_path, every=0, **changes):
    """MIST with a warm-up of its projection, its stream and a checkpoint after every step."""
    settings = {**MIST, "projection_epochs": 1, "seed": 0, "verbose": False, **changes}
    mist = MISTPlugin(**settings)
    host, stream = built(CASES["Models", "dropout"], [mist])
    return mist, host, stream, Checkpoint(tmp_path, host, stream, every=every)


@pytest.mark.parametrize("changes", [{}, {"dynamics": "reference"}, {"objective": "cross_entropy"}])
def test_goes_on_between_two_steps_of_a_tuning(changes, tmp_path):
    _, *whole = in_steps(tmp_path / "whole", **changes)
    weights, metrics, _ = go_on(*whole)
    seen = []
    for at in (2, 6, 9, 13):
        mist, host, stream, checkpoint = in_steps(tmp_path / str(at), **changes)
        stop_in_tuning(mist, at)
        with pytest.raises(Stopped):
            go_on(host, stream, checkpoint)
        files = sorted(file.name for file in checkpoint.folder.iterdir())
        assert sum(name.startswith("tuning") for name in files) <= 2
        mist, host, stream, checkpoint = in_steps(tmp_path / str(at), **changes)
        disturb()
        with mock.patch("mist_avalanche._epochs.step_bar", side_effect=step_bar) as bar:
            again, metrics_again, _ = go_on(host, stream, checkpoint)
        seen.append(bar.call_args_list[0].args[3])
        assert all(torch.equal(again[key], value) for key, value in weights.items())
        assert metrics_again == metrics
        assert mist.tuning_losses == whole[0].plugins[0].tuning_losses
    assert min(seen) > 0  # steps that were not taken again
