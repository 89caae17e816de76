"""Runs that are stopped and go on: the bits of the run that never was."""

import copy
import random
import shutil
import time
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, confusion_matrix_metrics
from avalanche.evaluation.metrics import forgetting_metrics as forgetting
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from compatibility import CASES, SmallNet, built, without_downloads
from conftest import make_benchmark
from test_compatibility import FAILING, REFUSED
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche._support.checksummed import read_checksummed, write_checksummed
from mist_avalanche._support.progress import step_bar
from mist_avalanche.method.entries import Entries
from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.models.triangle import mirror, pack, unpack
from mist_avalanche.runs import checkpoint
from mist_avalanche.runs.checkpoint import Checkpoint, NotResumableWarning
from mist_avalanche.strategies import RanPAC, SimpleCIL
from mist_avalanche.strategies.names import COMPUTED_STRATEGIES, STRATEGIES, VIT_STRATEGIES
from mist_avalanche.strategies.registry import build_strategy

MIST = {"tune_epochs": 2, "score_on": "every", "batch_size": 6, "lr": 0.01, "protect_rate": 0.01}
ALONE = (*REFUSED, "VAETraining")  # which MISTPlugin refuses
pytestmark = pytest.mark.filterwarnings(
    "ignore::mist_avalanche.runs.checkpoint.NotResumableWarning"
)
pytestmark = [pytestmark, pytest.mark.filterwarnings("ignore:`drift_compensation` has no effect")]


def made(table, name, folder, **changes):
    """A strategy, its stream and its checkpoint."""
    case = CASES[table, name]
    mist = MISTPlugin(**{**MIST, "verbose": False, "seed": 0, **dict(case.mist)})
    host, stream = built(case, [] if name in ALONE else [mist])
    return host, stream, Checkpoint(folder, host, stream, every=1e9, **changes)


def go_on(host, stream, checkpoint, keep=None, tested=1):
    """Train and evaluate from the last saved experience on; weights and metrics then."""
    metrics = checkpoint.load([])
    for experience in stream.train_stream[checkpoint.done :]:
        with without_downloads():
            host.train(experience, eval_streams=[])
            found = host.eval(stream.test_stream[:tested])
        metrics.append({k: v for k, v in found.items() if isinstance(v, float)})
        checkpoint.save(metrics)
        if keep and checkpoint.folder.exists():
            shutil.copytree(checkpoint.folder, keep / str(checkpoint.done))
    return {k: v.clone() for k, v in host.model.state_dict().items()}, metrics, vars(host.clock)


def assert_same(one, other):
    """The results of two :func:`go_on`."""
    weights, *others = one
    weights_again, *others_again = other
    assert weights.keys() == weights_again.keys()
    for key, value in weights.items():
        assert torch.equal(weights_again[key].nan_to_num(7.0), value.nan_to_num(7.0)), key
    assert others == others_again


def disturb():
    """Leave no generator as it was."""
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)


STATELESS = ("Naive", "OnlineNaive", "PNNStrategy", "VAETraining")
ORDINARY = [
    (table, name)
    for table, name in CASES
    if name not in (*FAILING, "JointTraining", "ExpertGateStrategy", "AETraining")  # large images
    and not name.startswith("plugins in the order")
]


@pytest.mark.parametrize(("table", "name"), ORDINARY)
def test_goes_on_with_the_same_bits_or_says_that_it_cannot(table, name, tmp_path):
    host, stream, keeper = made(table, name, tmp_path / "run")
    stateless = name in STATELESS or (table != "Strategies" and not name.endswith("Plugin"))
    assert (keeper.unsaved == []) == stateless
    if keeper.unsaved:
        assert keeper.load("anew") == "anew"
        keeper.save()
        assert keeper.done == 1
        assert not keeper.folder.exists()
        return
    whole = go_on(host, stream, keeper, keep=tmp_path)
    again = made(table, name, tmp_path / "1")
    disturb()
    assert_same(whole, go_on(*again))


# ---- Hosts of our own ------------------------------------------------------------------------


def network(width=16):
    return nn.Sequential(SmallNet().features, IncrementalClassifier(width))


def pixels():
    """A model of other tensors."""
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 10), nn.ReLU(), nn.Linear(10, 6))


def naive(optimizer, plugins=(), metrics=(), model=None):
    torch.manual_seed(0)
    model = model or network()
    return Naive(
        model=model,
        optimizer=optimizer(model.parameters()),
        train_mb_size=4,
        train_epochs=2,
        eval_mb_size=8,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), *metrics, loggers=[]),
    )


def adamw(parameters):
    return torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1, amsgrad=True)


def momentum(parameters):
    first, *others = parameters
    groups = [{"params": [first], "lr": 0.01}, {"params": others, "nesterov": True}]
    return torch.optim.SGD(groups, 0.05, momentum=0.9)


def mist(**changes):
    return MISTPlugin(**{**MIST, "verbose": False, "seed": 0, **changes})


def images():
    return make_benchmark(6, 3, 6, (3, 16, 16))


def features():
    torch.manual_seed(0)
    return SmallNet().features


HOSTS = {
    "AdamW": lambda plugins: naive(adamw, plugins),
    "SGD with momentum, two groups": lambda plugins: naive(momentum, plugins),
    "SimpleCIL": lambda plugins: SimpleCIL(
        model=features(), plugins=plugins, drift_compensation=True, evaluator=None
    ),
    **{
        f"RanPAC, {dtype}, M={m}, {memory}": lambda plugins, dtype=dtype, m=m, memory=memory: (
            RanPAC(
                model=features(),
                plugins=plugins,
                n_random_features=m,
                seed=3,
                dtype=dtype,
                drift_compensation=True,
                memory=memory,
                evaluator=None,
            )
        )
        for dtype, m, memory in [
            ("float64", 67, "features"),
            ("float32", 67, "gaussians"),
            ("float64", 0, "none"),
        ]
    },
}


@pytest.mark.parametrize("with_mist", [True, False])
@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("tested", [1, 3])  # the whole stream lets a classifier grow
def test_hosts_go_on_with_the_same_bits(name, with_mist, tested, tmp_path):
    def built_with():
        host = HOSTS[name]([mist(overlap_decay=0.5)] if with_mist else [])
        return host, stream, Checkpoint(tmp_path / "run", host, stream)

    stream = images()
    host, _, keeper = built_with()
    whole = go_on(host, stream, keeper, keep=tmp_path, tested=tested)
    for done in (1, 2):
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / str(done), tmp_path / "run")
        disturb()
        assert_same(whole, go_on(*built_with(), tested=tested))


def test_saving_changes_nothing(tmp_path):
    stream = images()
    host = HOSTS["AdamW"]([mist()])
    weights, _, _ = go_on(host, stream, Checkpoint(tmp_path, host, stream))
    host = HOSTS["AdamW"]([mist()])
    for experience in stream.train_stream:
        host.train(experience, eval_streams=[])
        host.eval(stream.test_stream[:1])
    assert all(torch.equal(weights[key], value) for key, value in host.model.state_dict().items())


# ---- Each state dict -------------------------------------------------------------------------


def same(one, other):
    """Whether two states are alike."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope="module")
def trained():
    """Strategies after two experiences with MIST."""
    found = {}
    for name in HOSTS:
        plugin = mist(objective="cross_entropy" if name == "SimpleCIL" else "mi")
        found[name] = HOSTS[name]([plugin]), plugin
        for experience in images().train_stream[:2]:
            found[name][0].train(experience, eval_streams=[])
    return found


@pytest.mark.parametrize("name", ["AdamW", "SimpleCIL"])
def test_the_plugin_s_state_goes_into_a_new_one_and_through_a_file(name, trained, tmp_path):
    _, plugin = trained[name]
    write_checksummed(plugin.state_dict(), tmp_path / "file")
    other = mist(objective="cross_entropy" if name == "SimpleCIL" else "mi", seed=5)
    other.load_state_dict(read_checksummed(tmp_path / "file"))
    assert same(other.state_dict(), plugin.state_dict())
    assert same(other.selection.masks, plugin.selection.masks)
    assert same(other.history.overlap, plugin.history.overlap)
    assert same(other.history.protected, plugin.history.protected)
    assert other.overlaps == plugin.overlaps != []
    assert other.seed == other.objective.seed == 0


def test_a_state_of_other_sizes_replaces_the_plugin_s_own(trained):
    _, plugin = trained["AdamW"]
    host = naive(adamw, [other := mist()], model=pixels())
    host.train(images().train_stream[0], eval_streams=[])
    assert other.objective.projection.weight.shape == (128, 10)
    other.load_state_dict(plugin.state_dict())
    assert same(other.state_dict(), plugin.state_dict())
    assert other.objective.projection is not plugin.objective.projection


def test_a_new_plugin_s_state_makes_a_used_one_new(trained):
    used, new = mist(), mist()
    used.load_state_dict(trained["AdamW"][1].state_dict())
    used.load_state_dict(new.state_dict())
    assert used.selection is None
    assert used.objective.projection is None
    assert same(used.state_dict(), new.state_dict())


@pytest.mark.parametrize("name", [name for name in HOSTS if "A" in name and "Adam" not in name])
def test_ranpac_s_lean_state_gives_the_whole_head_again(name, trained):
    host, _ = trained[name]
    other = HOSTS[name]([])
    other.load_state_dict(copy.deepcopy(host.state_dict()))
    assert same(dict(other.head.state_dict()), dict(host.head.state_dict()))
    m = len(host.head.gram)
    assert host.state_dict()["gram"].numel() == m * (m + 1) // 2
    fresh = HOSTS[name]([])
    other.load_state_dict(fresh.state_dict())
    assert same(dict(other.head.state_dict()), dict(fresh.head.state_dict()))


def test_ranpac_refuses_the_state_of_another(trained):
    state = trained["RanPAC, float64, M=67, features"][0].state_dict()
    for changes in ({"n_random_features": 66}, {"seed": 4}, {"dtype": "float32"}):
        arguments = {"n_random_features": 67, "seed": 3, **changes}
        other = RanPAC(model=features(), evaluator=None, **arguments)
        with pytest.raises(ValueError, match=r"were \(67, 3, torch.float64\), and are"):
            other.load_state_dict(state)


def test_entries_beyond_a_tensor_are_refused():
    state = Entries.of(torch.tensor([True, False, True])).state_dict()
    assert torch.equal(Entries.from_state_dict(state).mask(), torch.tensor([True, False, True]))
    for change in ({"positions": torch.tensor([3])}, {"positions": torch.tensor([-1])}):
        with pytest.raises(ValueError, match="beyond 3"):
            Entries.from_state_dict({**state, **change})


@pytest.mark.parametrize("m", [0, 1, 5, 1025, 2049])
def test_a_triangle_is_the_whole_of_a_symmetric_matrix(m):
    matrix = torch.rand(m, m, dtype=torch.float64)
    symmetric = mirror(matrix.clone())
    assert torch.equal(symmetric, symmetric.T)
    assert torch.equal(symmetric.tril(), matrix.tril())
    assert torch.equal(unpack(pack(symmetric)), symmetric)
    with pytest.raises(ValueError, match="no triangle"):
        unpack(torch.zeros(4))


# ---- What cannot be saved, and what does not fit ---------------------------------------------


class Counts(SupervisedPlugin):
    """Keeps state, from the start or from its first experience on."""

    def __init__(self, *, late=False):
        super().__init__()
        if not late:
            self.n = 0

    def after_training_exp(self, strategy, **kwargs):
        self.n = getattr(self, "n", 0) + 1


class Saves(Counts):
    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


class Holds(Naive):
    """Keeps state in an attribute of its own."""

    total = 0

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.seen = []


def test_what_keeps_state_is_named(tmp_path):
    stream = images()
    host = naive(adamw, [Counts(), ReplayPlugin(4), mist()], [forgetting(stream=True)])
    with pytest.warns(NotResumableWarning, match="Counts, ReplayPlugin, StreamForgetting may keep"):
        keeper = Checkpoint(tmp_path / "run", host, stream)
    assert keeper.unsaved == ["Counts", "ReplayPlugin", "StreamForgetting"]
    model = network()
    own = Holds(model=model, optimizer=adamw(model.parameters()), evaluator=None)
    assert Checkpoint(tmp_path, own, stream).unsaved == ["Holds"]
    own = naive(lambda p: torch.optim.SGD([*p, nn.Parameter(torch.ones(1))], 0.1))
    assert Checkpoint(tmp_path, own, stream).unsaved == ["SGD"]
    host = naive(adamw, [Saves()], [confusion_matrix_metrics(stream=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Checkpoint(tmp_path, host, stream).unsaved == []


def test_a_plugin_with_the_pair_is_saved(tmp_path):
    stream = images()
    host = naive(adamw, [Saves()])
    go_on(host, stream, Checkpoint(tmp_path, host, stream))
    host = naive(adamw, [counts := Saves()])
    Checkpoint(tmp_path, host, stream).load()
    assert counts.n == 3


def test_a_plugin_that_comes_to_keep_state_is_saved_no_more(tmp_path):
    stream = images()
    host = naive(adamw, [Counts(late=True)])
    keeper = Checkpoint(tmp_path, host, stream)
    keeper.load()
    host.train(stream.train_stream[0])
    with pytest.warns(NotResumableWarning, match="Counts may keep"):
        keeper.save()
    assert [file.name for file in tmp_path.iterdir()] == ["experience-0000.pt"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: naive(adamw, [mist(), Saves()]), "it is of Naive, AdamW, Saves, MISTPlugin"),
        (lambda: naive(adamw, [Saves()]), "here are Naive, AdamW, Saves, EvaluationPlugin"),
        (lambda: naive(momentum, [Saves(), mist()]), "here are Naive, SGD"),
        (lambda: SimpleCIL(model=features(), evaluator=None), "here are SimpleCIL"),
        (lambda: naive(adamw, [Saves(), mist()], model=pixels()), "other tensors: 0.0.bias"),
    ],
)
def test_another_strategy_is_refused(other, said, tmp_path):
    stream = images()
    Checkpoint(tmp_path, naive(adamw, [Saves(), mist()]), stream).load()
    with pytest.raises(ValueError, match=f"does not fit this strategy.*{said}"):
        Checkpoint(tmp_path, other(), stream).load()


def rewrite(folder, **changes):
    """The newest file with other contents and a right checksum."""
    file = sorted(folder.iterdir())[-1]
    write_checksummed({**read_checksummed(file), **changes}, file)


def test_old_and_damaged_files(tmp_path):
    stream = images()

    def keeper():
        return Checkpoint(tmp_path, HOSTS["SimpleCIL"]([]), stream)

    first = keeper()
    first.load("begun")
    first.strategy.train(stream.train_stream[0])
    first.save("once")
    newest = sorted(tmp_path.iterdir())[-1]
    rewrite(tmp_path, format=1)
    with pytest.raises(ValueError, match=r"of another version of mist_avalanche. Start anew"):
        keeper().load()
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="Damaged.*Going on from experience-0000"):
        assert keeper().load() == "begun"


def test_slow_saving_waits_until_the_run_has_taken_twenty_times_as_long(tmp_path):
    stream, now, seen = images(), [0.0], []

    def slowly(content, path):
        now[0] += 10
        write_checksummed(content, path)

    host = HOSTS["SimpleCIL"]([])
    with (
        mock.patch.object(time, "monotonic", side_effect=lambda: now[0]),
        mock.patch.object(checkpoint, "write_checksummed", side_effect=slowly),
    ):
        keeper = Checkpoint(tmp_path, host, stream)
        keeper.load()
        for seconds in (190, 5, 6):
            now[0] += seconds
            host.train(stream.train_stream[keeper.done])
            keeper.save()
            seen.append(sorted(int(file.stem[-4:]) for file in tmp_path.iterdir()))
    assert keeper.done == 3
    assert seen == [[0], [0], [0, 3]]


# ---- In the midst of tuning ------------------------------------------------------------------


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
        with mock.patch("mist_avalanche.method.epochs.step_bar", side_effect=step_bar) as bar:
            again, metrics_again, _ = go_on(host, stream, checkpoint)
        seen.append(bar.call_args_list[0].args[3])
        assert all(torch.equal(again[key], value) for key, value in weights.items())
        assert metrics_again == metrics
        assert mist.tuning_losses == whole[0].plugins[0].tuning_losses
    assert min(seen) > 0  # steps that were not taken again


# ---- The command's strategies ----------------------------------------------------------------


def test_which_of_the_command_s_strategies_can_go_on():
    can = set()
    for name in STRATEGIES:
        host = build_strategy(
            name,
            tiny_vit() if name in VIT_STRATEGIES else features(),
            16,
            6,
            device=torch.device("cpu"),
            plugins=[],
            evaluator=EvaluationPlugin(loggers=[]),
            image_size=16,
        )
        if not checkpoint.unsaved(host):
            can.add(name)
    own = {*COMPUTED_STRATEGIES, *VIT_STRATEGIES, "slca"}
    assert can == {*own, "naive", "streaming_lda"}
