import copy
import random
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from conftest import Images, brightened, make_benchmark
from small_runs import (
    accuracy,
    check_goes_on_at_an_epoch,
    everything,
    online_parts,
    same,
    small,
    state,
    streams,
)
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.models.alignment import ClassGaussians
from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.strategies import EASE, SLCA, SimpleCIL

STRATEGIES = {
    "slca": (SLCA, {"lr": 0.02, "backbone_lr": 1e-3, "samples_per_class": 8, "align_epochs": 2}),
    "ease": (EASE, {"lr": 0.2, "bottleneck": 4}),
}
NAMES = pytest.mark.parametrize("name", STRATEGIES)
MIST = {"tune_epochs": 2, "batch_size": 8, "lr": 0.05, "verbose": False, "seed": 0}


def make(name, plugins=(), model=None, **settings):
    kind, own = STRATEGIES[name]
    usual = {"train_mb_size": 6, "train_epochs": 2, "eval_mb_size": 8}
    return kind(
        model=model or small(depth=2),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        **{**own, **usual, **settings},
    )


def train(strategy, *experiences, **kwargs):
    for experience in experiences:
        strategy.train(experience, eval_streams=[], **kwargs)


# ---- Any stream ---------------------------------------------------------------------------------


@NAMES
def test_it_learns(name):
    benchmark = make_benchmark(6, 3)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16))
    own = {"model": plain, "train_epochs": 8} if name == "slca" else {}
    strategy = make(name, **own)
    train(strategy, *benchmark.train_stream)
    assert accuracy(strategy, benchmark.test_stream) > 0.8
    assert strategy.optimizer is None
    assert all(p.grad is None for p in strategy.model.parameters())


@NAMES
def test_many_experiences_of_unequal_size_single_images_and_returning_classes(name):
    labels = [[5], [0, 1, 2], [2], [5, 3], [1], [7, 9, 4, 6]]
    benchmark = streams(labels, per_class=1)
    strategy = make(name)
    for t, experience in enumerate(benchmark.train_stream):
        train(strategy, experience)
        seen = sorted({y for classes in labels[: t + 1] for y in classes})
        if name == "slca":
            assert strategy.gaussians.classes == seen
            assert strategy.head.active_units.nonzero().flatten().tolist() == seen
        else:
            assert strategy.head.seen.nonzero().flatten().tolist() == seen
            assert strategy.head.n_subspaces == t + 1
    assert all(torch.isfinite(v).all() for v in state(strategy).values())
    assert 0 < accuracy(strategy, benchmark.test_stream) <= 1


@NAMES
def test_logits_of_an_image_do_not_depend_on_its_batch(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    strategy = make(name, model=small(depth=2).double())
    doubled = [
        as_classification_dataset(Images(x.double(), y))
        for x, y in (everything([e]) for e in benchmark.train_stream)
    ]
    train(strategy, *benchmark_from_datasets(train=doubled).train_stream)
    x = everything(benchmark.test_stream)[0].double()
    model = strategy.model.eval()
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(model(x), alone, rtol=1e-9, atol=1e-12)


def n_experiences(strategy):
    """Those that are over."""
    of_slca = isinstance(strategy, SLCA)
    return strategy.gaussians.n_experiences if of_slca else strategy.head.n_subspaces


@NAMES
@pytest.mark.parametrize(("size", "drop_last"), [(4, False), (5, False), (5, True), (12, True)])
def test_online_parts_with_known_boundaries_are_one_experience(name, size, drop_last):
    benchmark, over = make_benchmark(4, 2, per_class=6), []
    parts = online_parts(benchmark.train_stream, size, drop_last=drop_last)
    strategy = make(name, train_epochs=1)
    for part in parts:
        train(strategy, part)
        over.append(n_experiences(strategy))
        assert (strategy.optimizer is None) == (len(over) % (len(parts) // 2) == 0)
    each = len(parts) // 2
    assert over == [0] * (each - 1) + [1] * each + [2]
    counts = [*strategy.gaussians.counts.values()] if name == "slca" else strategy.head.counts
    assert [int(count) for count in counts] == [6] * 4


@NAMES
def test_an_online_experience_whose_last_images_never_come_is_over_when_the_next_begins(name):
    benchmark = make_benchmark(4, 2, per_class=6)
    parts = online_parts(benchmark.train_stream, 4)
    strategy = make(name, train_epochs=1)
    train(strategy, *parts[:2])
    assert n_experiences(strategy) == 0
    train(strategy, parts[3])
    assert n_experiences(strategy) == 1


@NAMES
def test_replay_trains_along(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    strategy = make(name, [ReplayPlugin(4)], train_epochs=1)
    train(strategy, *benchmark.train_stream)
    assert all(torch.isfinite(v).all() for v in state(strategy).values())


@NAMES
@pytest.mark.parametrize("replays", [False, True])
def test_numbers_do_not_depend_on_workers(name, replays):
    benchmark, runs = make_benchmark(4, 2, per_class=6, train_transform=brightened), []
    for workers in ({}, {"num_workers": 1}, {"num_workers": 2, "persistent_workers": True}):
        model = small(depth=2, proj_drop_rate=0.3)
        random.seed(0)
        torch.manual_seed(0)
        strategy = make(name, [ReplayPlugin(4)] if replays else [], model)
        train(strategy, *benchmark.train_stream, **workers)
        runs.append(state(strategy))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_dropout_is_another_in_each_step_and_with_each_seed():
    benchmark, runs = make_benchmark(2, 1, per_class=3), []
    for seed in (0, 0, 1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 50), nn.Dropout(0.5))
        strategy, dropped = make("slca", model=model), []
        model[2].register_forward_hook(
            lambda layer, _, out, seen=dropped: seen.append(out == 0) if layer.training else None
        )
        torch.manual_seed(seed)
        train(strategy, *benchmark.train_stream)
        runs.append(torch.stack(dropped))
    assert runs[0].shape == (2, 6, 50)
    assert torch.equal(runs[0], runs[1])
    assert 0.3 < (runs[0] != runs[2]).float().mean() < 0.7
    assert 0.3 < (runs[0][0] != runs[0][1]).float().mean() < 0.7


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", [EASE, SimpleCIL])
def test_what_is_kept_in_evaluation_changes_no_later_draw(kind, num_workers):
    benchmark, drawn = make_benchmark(4, 2, per_class=2), []
    settings = {"train_epochs": 1, "bottleneck": 4} if kind is EASE else {}
    for cache_mb in (0, 1):
        quiet = EvaluationPlugin(loggers=[])
        strategy = kind(model=small(depth=1), cache_mb=cache_mb, evaluator=quiet, **settings)
        torch.manual_seed(0)
        for t, experience in enumerate(benchmark.train_stream):
            train(strategy, experience)
            strategy.eval(benchmark.test_stream[: t + 1], num_workers=num_workers)
        drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]


# ---- With MIST ----------------------------------------------------------------------------------


@NAMES
def test_an_idle_mist_changes_no_bit(name):
    benchmark, runs = make_benchmark(4, 2, per_class=4), []
    idle = MISTPlugin(select_rate=1.0, drop_rate=0.0, tune_epochs=0, batch_size=8, verbose=False)
    for plugins in ([], [idle]):
        torch.manual_seed(3)
        strategy = make(name, plugins)
        train(strategy, *benchmark.train_stream)
        runs.append(state(strategy))
    assert same(*runs)


@pytest.mark.parametrize("masks", [False, True])
def test_slca_moves_every_weight_unless_its_steps_are_masked(masks):
    benchmark = make_benchmark(4, 2, per_class=4)
    mist = MISTPlugin(**MIST)
    strategy = make("slca", [mist], masks_steps=masks)
    before = {k: p.detach().clone() for k, p in strategy.backbone.named_parameters()}
    train(strategy, *benchmark.train_stream)
    fixed = [
        torch.equal(
            p[~mist.selection.masks[f"backbone.{k}"]],
            before[k][~mist.selection.masks[f"backbone.{k}"]],
        )
        for k, p in strategy.backbone.named_parameters()
        if not mist.selection.masks[f"backbone.{k}"].all()
    ]
    assert all(fixed) if masks else not any(fixed)


def test_ease_s_subspaces_stay_where_they_are_though_mist_tunes_before_each_experience():
    benchmark = make_benchmark(6, 3, per_class=4)
    strategy = make("ease", [MISTPlugin(tune_on="every", **MIST)], beta=1.0)
    x, y = everything(benchmark.test_stream)
    seen, backbones = [], []
    for experience in benchmark.train_stream:
        train(strategy, experience)
        backbones.append({k: v.clone() for k, v in strategy.backbone.state_dict().items()})
        features = strategy.model.eval().features(x)
        assert same(backbones[-1], strategy.backbone.state_dict())
        for earlier in seen:
            assert torch.equal(features[:, : earlier.shape[1]], earlier)
        seen.append(features)
    assert not same(backbones[0], backbones[1])
    assert not same(backbones[1], backbones[2])
    assert seen[-1].shape == (len(y), 4, 24)
    steps = [sum(len(x) for _, x in step.values()) for step in strategy.model.chain.steps]
    assert all(
        0 < n <= 0.05 * sum(p.numel() for p in strategy.backbone.parameters()) for n in steps
    )
    assert not any(p.requires_grad for p in strategy.backbone.parameters())
    with strategy.model.state_of(0):
        assert not same(backbones[-1], strategy.backbone.state_dict())
    assert same(backbones[-1], strategy.backbone.state_dict())


def test_passes_together_are_those_of_one_state_of_the_vit():
    benchmark = make_benchmark(8, 4, per_class=4)
    strategy = make("ease", [MISTPlugin(tune_on="every", **MIST)], beta=1.0)
    train(strategy, *benchmark.train_stream[:2])
    strategy.plugins = [p for p in strategy.plugins if not isinstance(p, MISTPlugin)]
    train(strategy, *benchmark.train_stream[2:])
    model, (x, _) = strategy.model.eval(), everything(benchmark.test_stream)
    assert [*model.blocks()] == [-1, 0, 1, 2, 3]
    assert model._passes(model.blocks(), 8, True) == [[-1], [0], [1, 2, 3]]
    assert model._passes(model.blocks(), 256, True) == [[-1], [0], [1, 2], [3]]
    assert model._passes([1, 3], 8, True) == [[1, 3]]
    each = model.features(x)
    with mock.patch.object(
        model, "_passes", lambda b, n, _: type(model)._passes(model, b, n, True)
    ):
        torch.testing.assert_close(model.features(x), each)
        torch.testing.assert_close(model.features(x, [1, 3]), each[:, [2, 4]])


def test_images_to_evaluate_are_read_once_whatever_the_number_of_subspaces():
    benchmark = make_benchmark(6, 3, per_class=4)
    strategy = make("ease")
    train(strategy, *benchmark.train_stream)
    with mock.patch.object(strategy, "features_of", wraps=strategy.features_of) as read:
        strategy.eval(benchmark.test_stream)
    assert read.call_count == 1


def test_a_vit_that_moves_by_itself_is_told_of():
    benchmark = make_benchmark(4, 2, per_class=3)
    strategy = make("ease", train_epochs=1)
    train(strategy, benchmark.train_stream[0])
    with torch.no_grad():
        strategy.backbone.pos_embed += 1
    with pytest.warns(UserWarning, match="The ViT has changed since EASE"):
        train(strategy, benchmark.train_stream[1])


# ---- State --------------------------------------------------------------------------------------


def go_on(name, benchmark, folder, stop=None):
    strategy = make(name, [MISTPlugin(tune_on="every", **MIST)])
    checkpoint = Checkpoint(folder, strategy, benchmark)
    assert checkpoint.unsaved == []
    found = checkpoint.load([])
    for experience in benchmark.train_stream[checkpoint.done : stop]:
        train(strategy, experience)
        found.append(accuracy(strategy, benchmark.test_stream[: checkpoint.done + 1]))
        checkpoint.save(found)
    flags = {n: p.requires_grad for n, p in strategy.model.named_parameters()}
    logits = strategy.model.eval()(everything(benchmark.test_stream)[0])
    return state(strategy), found, flags, logits


@NAMES
def test_a_run_goes_on_with_the_same_bits(name, tmp_path):
    benchmark = make_benchmark(6, 3, per_class=4)
    torch.manual_seed(5)
    whole, *rest, logits = go_on(name, benchmark, tmp_path / "whole")
    torch.manual_seed(5)
    go_on(name, benchmark, tmp_path / "parts", stop=2)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    again, *rest_again, logits_again = go_on(name, benchmark, tmp_path / "parts")
    assert same(whole, again)
    assert rest == rest_again
    assert torch.equal(logits, logits_again)


@NAMES
@pytest.mark.parametrize("with_mist", [True, False])
@pytest.mark.parametrize(("experience", "epoch"), [(0, 1), (1, 2)])
def test_a_run_goes_on_at_the_epoch_where_it_was_stopped(
    name, with_mist, experience, epoch, tmp_path
):
    def made():
        return make(
            name, [MISTPlugin(tune_on="every", **MIST)] if with_mist else [], train_epochs=3
        )

    benchmark = make_benchmark(6, 3, per_class=4)
    check_goes_on_at_an_epoch(made, benchmark, tmp_path, (experience, epoch))


@NAMES
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_goes_on_within_an_online_experience(name, stop, tmp_path):
    benchmark = make_benchmark(4, 2, per_class=12)
    parts = online_parts(benchmark.train_stream, 10, drop_last=True)
    stream = SimpleNamespace(train_stream=parts, test_stream=benchmark.test_stream)
    torch.manual_seed(5)
    whole, *rest, logits = go_on(name, stream, tmp_path / "whole")
    torch.manual_seed(5)
    go_on(name, stream, tmp_path / "parts", stop=stop)
    torch.manual_seed(99)
    again, *rest_again, logits_again = go_on(name, stream, tmp_path / "parts")
    assert same(whole, again)
    assert rest == rest_again
    assert torch.equal(logits, logits_again)


@NAMES
def test_a_run_that_goes_on_needs_the_rest_of_its_online_experience(name):
    parts = online_parts(make_benchmark(4, 2, per_class=6).train_stream, 4)
    strategy, other = make(name, train_epochs=1), make(name, train_epochs=1)
    train(strategy, parts[0])
    other.load_state_dict(strategy.state_dict())
    with pytest.raises(RuntimeError, match=r"resumed within an online experience.*Start anew"):
        train(other, parts[3])


@NAMES
def test_a_copy_goes_its_own_way(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    strategy = make(name)
    train(strategy, benchmark.train_stream[0])
    before, other = state(strategy), copy.deepcopy(strategy)
    train(other, benchmark.train_stream[1])
    assert same(before, state(strategy))


# ---- SLCA ---------------------------------------------------------------------------------------


def test_slca_keeps_old_rows_and_forgets_the_alignment_before_it_goes_on():
    benchmark = make_benchmark(6, 3, per_class=4)
    strategy = make("slca")
    train(strategy, *benchmark.train_stream[:2])
    before = strategy.head.before_weight.clone()
    assert not torch.equal(before, strategy.head.classifier.weight)
    train(strategy, benchmark.train_stream[2])
    assert torch.equal(strategy.head.before_weight[:4], before)


def test_slca_starts_rows_near_zero():
    starts = []

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            starts.append(copy.deepcopy(strategy.head.part))

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 400))
    train(make("slca", [Look()], model, train_epochs=1), *make_benchmark(4, 2).train_stream)
    for part in starts:
        assert part.weight.shape == (2, 400)
        assert 0.018 < part.weight.std() < 0.022
        assert not part.bias.any()


def test_covariances_and_their_factors_are_computed_in_float64():
    generator = torch.Generator().manual_seed(0)
    features = 100 + 100 * torch.randn(5, 12, generator=generator)  # fewer images than D
    gaussians = ClassGaussians()
    gaussians.add(features, torch.zeros(5, dtype=torch.int64))
    covariance = torch.from_numpy(np.cov(features.double().numpy().T)) + 1e-4 * torch.eye(12)
    wanted = torch.linalg.cholesky(covariance)
    assert gaussians.factors[0].dtype == torch.float32
    assert wanted.diagonal().min() < 0.02  # the 1e-4, beside entries of 100
    torch.testing.assert_close(gaussians.factors[0].double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_class_that_comes_back_has_the_gaussian_of_all_its_features():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, whole, parts = torch.zeros(9, dtype=torch.int64), ClassGaussians(), ClassGaussians()
    whole.add(features, labels)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 9)):
        parts.add(features[rows], labels[rows])
    assert (parts.counts, parts.experiences) == ({0: 9}, {0: 2})
    torch.testing.assert_close(parts.means[0], whole.means[0])
    torch.testing.assert_close(parts.factors[0], whole.factors[0])


def test_slca_works_with_any_backbone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    strategy = make("slca", model=model)
    benchmark = make_benchmark(4, 2, per_class=4)
    train(strategy, *benchmark.train_stream)
    assert strategy.head.classifier.weight.shape == (4, 10)
    assert strategy.milestones == (2,)


# ---- EASE ---------------------------------------------------------------------------------------


def test_every_adapter_starts_as_the_identity_from_numbers_of_its_own():
    starts = []

    class Look(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            starts.append(copy.deepcopy(strategy.model.adapters[-1]))

    train(make("ease", [Look()], train_epochs=1), *make_benchmark(4, 2).train_stream)
    first, second = starts
    for adapter in starts:
        assert not any(p.any() for p in adapter.up.parameters())
    assert not torch.equal(first.down[0].weight, second.down[0].weight)


def test_an_adapter_drops_while_it_trains():
    benchmark, runs = make_benchmark(2, 1), []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        strategy = make("ease", dropout=dropout)
        train(strategy, *benchmark.train_stream)
        runs.append(strategy.model.adapters[0].up[0].weight.detach())
    assert not torch.allclose(*runs, rtol=1e-3)


def test_features_of_test_images_are_computed_once_a_subspace():
    benchmark = make_benchmark(4, 2, per_class=4)
    cached, plain = make("ease"), make("ease", cache_mb=0)
    counts, run = [], cached.model.run_backbone

    def counted(source, x):
        counts.append(len(x))
        return run(source, x)

    found = []
    for strategy in (cached, plain):
        torch.manual_seed(0)
        train(strategy, benchmark.train_stream[0], shuffle=False)
        train(strategy, benchmark.train_stream[1], shuffle=False)
        with mock.patch.object(cached.model, "run_backbone", counted):
            counted.precision = "32"
            found.append([accuracy(strategy, benchmark.test_stream) for _ in range(2)])
    assert sum(counts) == 2 * 16
    assert found[0] == found[1]
    with torch.no_grad():
        cached.model.adapters[1].up[0].weight += 1.0
    with mock.patch.object(cached.model, "run_backbone", counted):
        cached.eval(benchmark.test_stream)
    assert sum(counts) == 3 * 16


@NAMES
def test_several_processes_are_refused_before_anything_is_computed(name, monkeypatch):
    monkeypatch.setattr("mist_avalanche._support.distributed.world_size", lambda: 2)
    mist, kind = MISTPlugin(**MIST), STRATEGIES[name][0].__name__
    strategy = make(name, [mist])
    before = state(strategy)
    with pytest.raises(ValueError, match=rf"^{kind} trains in one process.*without torchrun"):
        train(strategy, make_benchmark(4, 2).train_stream[0])
    assert mist.selection is None
    assert same(before, state(strategy))


@NAMES
def test_what_is_refused(name):
    with pytest.raises(TypeError, match="has no argument 'optimizer'"):
        make(name, optimizer=None)
    wrong = {"lr": 0, "train_epochs": 0, "weight_decay": -1}
    wrong |= {"alpha": -1, "bottleneck": 0, "complement": "none", "cache_mb": -1}
    for argument, value in wrong.items():
        if name == "ease" or argument in ("lr", "train_epochs", "weight_decay"):
            with pytest.raises(ValueError, match=f"`{argument}`"):
                make(name, **{argument: value})
    with pytest.raises(ValueError, match="`beta` has no effect"):
        make("ease", alpha=None, beta=1.0)
    with pytest.raises(ValueError, match="would never drop"):
        make("slca", milestones=(2,))
