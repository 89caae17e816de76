import copy
import random
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from conftest import brightened, make_benchmark
from kinds import KINDS
from small_runs import (
    accuracy,
    check_goes_on_at_an_epoch,
    online_parts,
    same,
    small,
    state,
    streams,
)
from torch.utils.data import DataLoader

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.strategies import L2P, CODAPrompt, DualPrompt
from mist_avalanche.strategies._seeded_loader import SeededLoader

STRATEGIES = {
    "l2p": (L2P, {"size": 4, "length": 2, "top_k": 2}),
    "dualprompt": (DualPrompt, {"general_length": 2, "expert_length": 2}),
    "codaprompt": (CODAPrompt, {"per_experience": 2, "length": 4}),
}
NAMES = pytest.mark.parametrize("name", STRATEGIES)
MIST = {"tune_epochs": 2, "batch_size": 8, "lr": 0.01, "verbose": False, "seed": 0}


def make(name, plugins=(), model=None, **settings):
    kind, own = STRATEGIES[name]
    usual = {"train_mb_size": 6, "train_epochs": 2, "eval_mb_size": 8, "lr": 0.02}
    return kind(
        model=model or small(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        **{**own, **usual, **settings},
    )


def train(strategy, *experiences, **kwargs):
    for experience in experiences:
        torch.manual_seed(7)  # whatever was evaluated before
        strategy.train(experience, eval_streams=[], **kwargs)


# ---- What trains, and what stays --------------------------------------------------------------


@NAMES
def test_it_learns_and_keeps_what_is_old_bit_for_bit(name):
    benchmark = make_benchmark(6, 3)
    strategy = make(name, model=create_backbone(), train_epochs=8, train_mb_size=8)
    backbone = {k: v.clone() for k, v in strategy.model.backbone.state_dict().items()}
    for t, experience in enumerate(benchmark.train_stream):
        before = state(strategy)
        train(strategy, experience)
        after = state(strategy)
        assert same(backbone, strategy.model.backbone.state_dict())
        head = "head.classifier.weight"
        assert torch.equal(after[head][: 2 * t], before[head][: 2 * t])
        assert len(after[head]) == 2 * (t + 1)
        for key in before:
            if key.startswith("prompts.") and key[-1].isdigit():  # of an earlier experience
                assert torch.equal(after[key], before[key])
        trained = {n for n, p in strategy.model.named_parameters() if p.requires_grad}
        own = {id(p) for p in strategy.prompts.training_parameters()}
        names = {n for n, p in strategy.model.named_parameters() if id(p) in own}
        assert trained == names | {head, "head.classifier.bias"}
        assert all(p.grad is None for p in strategy.model.parameters())
        if t == 0:
            assert accuracy(strategy, benchmark.test_stream[:1]) > 0.8
    assert strategy.optimizer is None


@NAMES
def test_evaluation_adds_nothing(name):
    benchmark = make_benchmark(6, 3, per_class=4)
    plain, looking = make(name), make(name)
    looking.eval(benchmark.test_stream)
    for experience in benchmark.train_stream[:2]:
        train(plain, experience)
        before = accuracy(looking, benchmark.test_stream)
        train(looking, experience)
        assert looking.prompts.n_experiences == plain.prompts.n_experiences
    found = [accuracy(looking, benchmark.test_stream) for _ in range(2)]
    assert found[0] == found[1]
    assert before is not None
    assert same(state(plain), state(looking))


@NAMES
def test_evaluation_of_later_classes_in_the_midst_of_training(name):
    benchmark = make_benchmark(6, 3, per_class=4)
    plain, looking = make(name), make(name, eval_every=1)
    plain.model.head.std = looking.model.head.std = 0.0  # else chance is in what starts
    for experience in benchmark.train_stream[:2]:
        train(plain, experience, shuffle=False)
        torch.manual_seed(7)
        looking.train(experience, eval_streams=[benchmark.test_stream], shuffle=False)
    assert same(state(plain), state(looking))


@NAMES
def test_the_loss_is_over_the_experience_s_classes(name):
    benchmark, seen = make_benchmark(4, 2, per_class=3), []

    class Look(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            seen.append(torch.isinf(strategy.mb_output).tolist())

    train(make(name, [Look()]), *benchmark.train_stream)
    assert seen[0][0] == [False, False]
    assert seen[-1][0] == [True, True, False, False]


# ---- Streams ------------------------------------------------------------------------------------


@NAMES
def test_many_experiences_single_and_returning_classes(name):
    labels = [[5], [0, 1], [2], [5, 3], [1], [7], [0], [4], [6], [8], [9], [3, 10]]
    benchmark = streams(labels)
    strategy = make(name, train_epochs=1)
    for t, experience in enumerate(benchmark.train_stream):
        train(strategy, experience)
        seen = {y for classes in labels[: t + 1] for y in classes}
        assert strategy.model.head.active_units.nonzero().flatten().tolist() == sorted(seen)
    assert strategy.prompts.n_experiences == (1 if name == "l2p" else len(labels))
    assert 0 < accuracy(strategy, benchmark.test_stream) <= 1


@NAMES
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_benchmark(name, kind):
    train_stream, test_streams = KINDS[kind]()
    strategy = make(name, train_epochs=1, train_mb_size=12)
    train(strategy, *train_stream)
    for stream in test_streams:
        assert accuracy(strategy, stream) >= 0
    assert strategy.model.head.active_units.all()


@NAMES
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_last_batch_of_one_image_and_one_epoch(name, schedule):
    benchmark = streams([[0, 1], [2, 3]], per_class=2)
    strategy = make(name, train_mb_size=3, train_epochs=1, schedule=schedule)
    train(strategy, *benchmark.train_stream)
    assert all(torch.isfinite(v).all() for v in state(strategy).values())


@NAMES
def test_an_online_stream_is_one_experience_of_each(name):
    benchmark = make_benchmark(4, 2, per_class=6)
    parts = online_parts(benchmark.train_stream, 4)
    strategy, optimizers = make(name, train_epochs=1, train_mb_size=4), []

    class Look(SupervisedPlugin):
        def after_update(self, strategy, **kwargs):
            optimizers.append(strategy.optimizer)

    strategy.plugins.insert(0, Look())
    train(strategy, *parts)
    assert len({id(o) for o in optimizers}) == 2
    assert strategy.optimizer is None
    assert strategy.prompts.n_experiences == (1 if name == "l2p" else 2)


def test_mist_in_an_online_stream_waits_for_a_part_that_is_large_enough():
    benchmark = make_benchmark(4, 2, per_class=6)
    parts = online_parts(benchmark.train_stream, 4)
    mist = MISTPlugin(**MIST)  # which wants 8 images
    strategy = make("codaprompt", [mist], train_epochs=1)
    with pytest.warns(UserWarning, match="MISTPlugin scores and tunes once"):
        train(strategy, *parts)
    assert mist.selection is None
    assert not any(p.requires_grad for p in strategy.model.backbone.parameters())


@NAMES
def test_replay_brings_old_classes_into_the_loss(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    buffer = ReservoirSamplingBuffer(8)
    strategy = make(name, [ReplayPlugin(8, storage_policy=buffer)])
    train(strategy, benchmark.train_stream[0])
    before = state(strategy)["head.classifier.weight"][:2]
    train(strategy, benchmark.train_stream[1])
    after = state(strategy)["head.classifier.weight"]
    assert torch.isfinite(after).all()
    assert not torch.equal(after[:2], before)


# ---- With MIST ------------------------------------------------------------------------------


@NAMES
def test_mist_tunes_the_plain_vit_before_the_first_experience_only(name):
    benchmark = make_benchmark(6, 3)
    mist = MISTPlugin(**MIST)
    strategy = make(name, [mist])
    backbone = strategy.model.backbone
    pretrained = {k: p.detach().clone() for k, p in backbone.named_parameters()}
    train(strategy, benchmark.train_stream[0])
    assert all(key.startswith("backbone.") for key in mist.selection.masks)
    tuned = {k: p.detach().clone() for k, p in backbone.named_parameters()}
    for key, p in tuned.items():
        fixed = ~mist.selection.masks[f"backbone.{key}"]
        assert torch.equal(p[fixed], pretrained[key][fixed])
    moved = sum(int((p != pretrained[key]).sum()) for key, p in tuned.items())
    assert 0 < moved <= 0.05 * sum(p.numel() for p in tuned.values())
    train(strategy, *benchmark.train_stream[1:])
    assert all(torch.equal(p, tuned[key]) for key, p in backbone.named_parameters())
    assert not any(p.requires_grad for p in backbone.parameters())


@NAMES
def test_mist_before_every_experience_is_refused(name):
    with pytest.raises(ValueError, match=r"Use MISTPlugin\(tune_on='first'\)"):
        make(name, [MISTPlugin(tune_on="every")])


@NAMES
def test_mist_that_neither_selects_less_nor_tunes_changes_no_bit(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    idle = MISTPlugin(select_rate=1.0, drop_rate=0.0, tune_epochs=0, batch_size=8, verbose=False)
    runs = [make(name), make(name, [idle])]
    for strategy in runs:
        train(strategy, *benchmark.train_stream)
    assert same(*map(state, runs))


def test_parts_of_the_vit_that_the_user_has_frozen_stay_frozen_for_mist():
    benchmark, model = make_benchmark(4, 2), small()
    model.patch_embed.requires_grad_(False)
    mist = MISTPlugin(**MIST)
    train(make("dualprompt", [mist], model=model), benchmark.train_stream[0])
    assert not any("patch_embed" in key for key in mist.selection.masks)


# ---- State ----------------------------------------------------------------------------------


def go_on(name, benchmark, folder, stop=None):
    strategy = make(name, [MISTPlugin(**MIST)])
    checkpoint = Checkpoint(folder, strategy, benchmark)
    assert checkpoint.unsaved == []
    found = checkpoint.load([])
    for experience in benchmark.train_stream[checkpoint.done : stop]:
        train(strategy, experience)
        found.append(accuracy(strategy, benchmark.test_stream[: checkpoint.done + 1]))
        checkpoint.save(found)
    flags = {n: p.requires_grad for n, p in strategy.model.named_parameters()}
    return state(strategy), found, flags


@NAMES
def test_a_run_goes_on_with_the_same_bits(name, tmp_path):
    benchmark = make_benchmark(6, 3, per_class=4)
    whole, found, flags = go_on(name, benchmark, tmp_path / "whole")
    go_on(name, benchmark, tmp_path / "parts", stop=2)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    again, found_again, flags_again = go_on(name, benchmark, tmp_path / "parts")
    assert same(whole, again)
    assert (found, flags) == (found_again, flags_again)
    once_more, _, flags_again = go_on(name, benchmark, tmp_path / "parts")  # nothing is left to do
    assert same(whole, once_more)
    assert flags == flags_again


@NAMES
@pytest.mark.parametrize("with_mist", [True, False])
@pytest.mark.parametrize(("experience", "epoch"), [(0, 1), (1, 2)])
def test_a_run_goes_on_at_the_epoch_where_it_was_stopped(
    name, with_mist, experience, epoch, tmp_path
):
    def made():
        return make(name, [MISTPlugin(**MIST)] if with_mist else [], train_epochs=3)

    benchmark = make_benchmark(6, 3, per_class=4)
    check_goes_on_at_an_epoch(made, benchmark, tmp_path, (experience, epoch))


@NAMES
def test_a_run_goes_on_within_an_online_experience(name, tmp_path):
    benchmark = make_benchmark(4, 2, per_class=12)
    parts = online_parts(benchmark.train_stream, 8)
    stream = SimpleNamespace(train_stream=parts, test_stream=benchmark.test_stream)
    torch.manual_seed(5)
    whole, *rest = go_on(name, stream, tmp_path / "whole")
    torch.manual_seed(5)
    go_on(name, stream, tmp_path / "parts", stop=4)
    torch.manual_seed(99)
    again, *rest_again = go_on(name, stream, tmp_path / "parts")
    assert same(whole, again)
    assert rest == rest_again


@NAMES
def test_numbers_do_not_depend_on_workers(name):
    benchmark, runs = make_benchmark(2, 1, per_class=4, train_transform=brightened), []
    for num_workers in (0, 1):
        strategy = make(name)
        train(strategy, benchmark.train_stream[0], num_workers=num_workers)
        runs.append(state(strategy))
    assert same(*runs)


@NAMES
def test_a_copy_goes_its_own_way(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    strategy = make(name)
    train(strategy, benchmark.train_stream[0])
    before, other = state(strategy), copy.deepcopy(strategy)
    train(other, benchmark.train_stream[1])
    assert same(before, state(strategy))
    train(strategy, benchmark.train_stream[1])
    assert strategy.model_to_tune.backbone is strategy.model.backbone
    assert other.model_to_tune.backbone is other.model.backbone


# ---- Queries --------------------------------------------------------------------------------


@NAMES
def test_queries_of_test_images_are_computed_once_until_the_vit_changes(name):
    benchmark = make_benchmark(4, 2, per_class=4)
    cached, not_cached = make(name), make(name, cache_mb=0)
    for strategy in (cached, not_cached):
        train(strategy, benchmark.train_stream[0])
    images, query = [], cached.model.query

    def counted(x):
        images.append(len(x))
        return query(x)

    with mock.patch.object(cached.model, "query", counted):
        first = accuracy(cached, benchmark.test_stream)
        assert sum(images) == 16
        train(cached, benchmark.train_stream[1], shuffle=False)
        training = 2 * 8
        assert accuracy(cached, benchmark.test_stream[:1]) is not None
        assert sum(images) == 16 + training
        with torch.no_grad():
            cached.model.backbone.pos_embed += 0.1
        cached.eval(benchmark.test_stream)
        assert sum(images) == 16 + training + 16
    assert accuracy(not_cached, benchmark.test_stream) == first


def test_logits_are_the_same_with_queries_from_the_cache():
    benchmark, found = make_benchmark(4, 2, per_class=4), []

    class Look(SupervisedPlugin):
        def after_eval_forward(self, strategy, **kwargs):
            found[-1].append(strategy.mb_output)

    for cache_mb in (0, 1):
        strategy = make("dualprompt", [Look()], cache_mb=cache_mb)
        train(strategy, *benchmark.train_stream)
        found.append([])
        strategy.eval(benchmark.test_stream)
    assert all(map(torch.equal, *found))


# ---- Arguments ------------------------------------------------------------------------------


@NAMES
def test_what_is_refused(name):
    with pytest.raises(TypeError, match="has no argument 'optimizer'"):
        make(name, optimizer=None)
    with pytest.raises(ValueError, match=r"ResNet has none\. Use a backbone"):
        make(name, model=timm.create_model("resnet18", num_classes=0))
    for wrong in ({"lr": 0}, {"clip_grad_norm": 0}, {"schedule": "step"}, {"train_epochs": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            make(name, **wrong)


def test_blocks_are_those_that_the_vit_has():
    assert make("dualprompt", model=create_backbone()).prompts.expert_blocks == (2, 3)
    assert make("codaprompt", model=create_backbone()).prompts.blocks == (0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"`expert_blocks` to be different numbers from 0 to 2"):
        make("dualprompt", expert_blocks=(4,))
    shallow = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0)
    with pytest.raises(ValueError, match=r"Got no `expert_blocks`"):
        make("dualprompt", model=shallow)


@NAMES
def test_a_classifier_is_taken_off_with_a_warning(name):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3)
    with pytest.warns(UserWarning, match="still had its classifier, 'head'"):
        strategy = make(name, model=vit)
    train(strategy, make_benchmark(2, 1, per_class=2).train_stream[0])


def test_a_transform_draws_anew_for_each_image_and_epoch():
    seen = []

    def noted(x):
        seen.append(torch.rand(()).item())
        return x

    benchmark = make_benchmark(2, 1, per_class=4, train_transform=noted)
    train(make("l2p", train_epochs=2), benchmark.train_stream[0])
    assert len({*seen}) == len(seen) == 16


@pytest.mark.parametrize("num_workers", [0, 1])
def test_without_task_labels_the_images_are_seeded_too(num_workers):
    experiences, _ = KINDS["class_incremental_benchmark"]()
    found = []

    class Note(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            found.append(strategy.dataloader)

    train(make("l2p", [Note()], train_epochs=1), experiences[0], num_workers=num_workers)
    assert isinstance(found[0], SeededLoader)
    assert isinstance(found[0].loader, DataLoader)
