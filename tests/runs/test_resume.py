"""A stopped run goes on after its last finished experience, with the same numbers."""

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from avalanche.training.supervised import Naive
from small_runs import accuracy, same
from tiny_runs import config, tiny

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitGlyphs
from mist_avalanche.models import create_backbone
from mist_avalanche.runs import Checkpoint, run
from mist_avalanche.runs.checkpoint import FORMAT, read
from mist_avalanche.strategies import RanPAC, SimpleCIL

FEW = {"n_random_features": 50}
SLCA = {"train_epochs": 1, "samples_per_class": 4}
RUNS = {
    "simplecil+mist": config(mist=True, mist_args={"tune_on": "every", "score_on": "every"}),
    "simplecil+mist+drift": config(mist=True, drift_compensation=True),
    "ranpac+mist": config("ranpac", mist=True, strategy_args=FEW),
    "ranpac+mist+drift": config("ranpac", mist=True, drift_compensation=True, strategy_args=FEW),
    "ranpac+mist+joined+drift": config(
        "ranpac", mist=True, drift_compensation=True, strategy_args={**FEW, "joined": True}
    ),
    "slca": config("slca", strategy_args=SLCA),
    "slca+mist": config("slca", mist=True, strategy_args=SLCA),
    "cofima+mist": config("cofima", mist=True, strategy_args=SLCA),
    "fecam+mist": config("fecam", mist=True),
    "ssiat+mist": config("ssiat", mist=True, strategy_args={**SLCA, "first_epochs": 1}),
    "mos": config("mos", strategy_args={**SLCA, "align_epochs": 2}),
    "l2p+mist": config("l2p", mist=True, strategy_args={"train_epochs": 2}),
    "naive+mist": config("naive", mist=True, strategy_args={"train_epochs": 1}),
}
pytestmark = pytest.mark.filterwarnings("ignore:The backbone", "ignore:`drift_compensation`")


class Stop(Exception):
    """In place of Ctrl-C."""


def run_and_stop(settings, folder, **options):
    """A run that is stopped once two experiences are done, and the third is trained."""
    names = run.__globals__
    correct = names["_correct"]

    def stopping(metrics, experience, count):
        if experience == 2:
            raise Stop
        return correct(metrics, experience, count)

    with mock.patch.dict(names, _correct=stopping), pytest.raises(Stop):
        run(settings, folder, **options)


def without_time(results):
    return {k: v for k, v in results.items() if k != "timing"}


@pytest.mark.parametrize("label", RUNS)
def test_the_numbers_are_those_of_a_run_that_was_not_stopped(label, tmp_path):
    whole = run(RUNS[label], tmp_path / "whole")
    run_and_stop(RUNS[label], tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "results.json").exists()
    torch.manual_seed(99)
    resumed = run(RUNS[label], tmp_path / "stopped", resume=True)
    assert without_time(resumed) == without_time(whole)
    models = [
        read(tmp_path / name / "checkpoint.pt")["strategy"]["model"]
        for name in ("whole", "stopped")
    ]
    assert same(*models)


def test_finished_experiences_are_not_repeated(tmp_path, monkeypatch):
    run_and_stop(config(), tmp_path)
    (tmp_path / ".checkpoint.pt.1.tmp").touch()
    trained = []
    monkeypatch.setattr(SimpleCIL, "fit", lambda _self, _x, y: trained.append(y.unique().tolist()))
    run(config(), tmp_path, resume=True)
    assert trained == [[4, 5]]
    assert not [*tmp_path.glob(".*")]


def test_other_settings_are_refused_by_name(tmp_path):
    settings = config(mist=True)
    run_and_stop(settings, tmp_path)
    with pytest.raises(ValueError, match="holds a stopped run"):
        run(settings, tmp_path)
    others = {
        "mist_args: .*'tune_epochs': 2.* there": replace(settings, mist_args={"tune_epochs": 1}),
        "seed: 0 there, 3 here": replace(settings, seed=3),
        "num_workers: 0 there, 1 here": replace(settings, num_workers=1),
    }
    for _ in range(2):  # stopped, then finished
        for named, other in others.items():
            with pytest.raises(ValueError, match=named):
                run(other, tmp_path, resume=True)
        run(settings, tmp_path, resume=True)


def test_a_finished_run_stays_unless_it_is_to_be_replaced(tmp_path):
    first = run(config(), tmp_path)
    written = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match="finished run"):
        run(config(seed=1), tmp_path)
    assert run(config(), tmp_path, resume=True)["timing"] == first["timing"]
    assert (tmp_path / "results.json").read_bytes() == written
    assert run(config(seed=1), tmp_path, overwrite=True)["config"]["seed"] == 1
    assert len([*(tmp_path / "tensorboard").iterdir()]) == 1  # of the new run alone


def test_checkpoints_that_cannot_be_read(tmp_path):
    file = tmp_path / "checkpoint.pt"
    for content in (b"", b"no checkpoint", {"format": FORMAT - 1}, {}):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(ValueError, match=r"checkpoint\.pt .*--overwrite"):
            run(config(), tmp_path, resume=True)


def test_what_mist_has_learned_returns_to_the_device(tmp_path):
    mist = MISTPlugin(tune_epochs=1, batch_size=8, verbose=False)
    strategy, benchmark = SimpleCIL(model=create_backbone(), plugins=[mist]), tiny()
    checkpoint = Checkpoint(tmp_path, strategy, benchmark)
    strategy.train(benchmark.train_stream[0])
    checkpoint.save()
    strategy.device = torch.device("meta")  # in place of a GPU
    checkpoint.load()
    state = (*mist.selection.masks.values(), *mist.method.objective.state_dict().values())
    assert {t.device.type for t in state if isinstance(t, torch.Tensor)} == {"meta"}


# ---- In one's own loop ---------------------------------------------------------------------------


def loop(folder, benchmark, experiences, settings=None, *, seed=0, lr=1e-4):
    strategy = RanPAC(
        model=create_backbone(),
        n_random_features=20,
        seed=seed,
        plugins=[MISTPlugin(tune_epochs=1, batch_size=8, seed=0, lr=lr, verbose=False)],
    )
    checkpoint = Checkpoint(folder, strategy, benchmark, settings=settings)
    found = checkpoint.load([])
    for experience in benchmark.train_stream[checkpoint.done : experiences]:
        strategy.train(experience)
        found.append(accuracy(strategy, benchmark.test_stream))
        checkpoint.save(found)
    return found


def test_a_loop_of_ones_own(tmp_path):
    whole = loop(tmp_path / "whole", tiny(), 3)
    part = loop(tmp_path / "parts", tiny(), 2)
    assert loop(tmp_path / "parts", tiny(), 3) == whole
    assert whole[:2] == part
    with pytest.raises(ValueError, match="lr: None there, 1 here"):
        loop(tmp_path / "parts", tiny(), 3, {"lr": 1})
    with pytest.raises(ValueError, match=r"arguments: .*'seed': 0\} there, .*'seed': 1\} here"):
        loop(tmp_path / "parts", tiny(), 3, seed=1)
    with pytest.raises(ValueError, match=r"mist: .*'lr': 0.0001.* there, .*'lr': 0.1"):
        loop(tmp_path / "parts", tiny(), 3, lr=0.1)


def test_glyphs_that_are_drawn_otherwise_are_other_images():
    digests = {str(SplitGlyphs(shift=shift).digests) for shift in (1, 2, 1)}
    assert len(digests) == 2


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(TypeError, match="Naive has no state_dict"):
        Checkpoint(tmp_path, Naive(model=torch.nn.Linear(1, 1), optimizer=None), tiny())
    with pytest.raises(TypeError):
        Checkpoint(tmp_path, SimpleCIL(model=create_backbone()), tiny()).save(copy.copy)
    assert not any(tmp_path.iterdir())
