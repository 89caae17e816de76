import copy
from unittest import mock

import pytest
import timm
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from conftest import make_benchmark
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import L2P, CODAPrompt, DualPrompt

STRATEGIES = {
    "l2p": (L2P, {"size": 4, "length": 2, "top_k": 2}),
    "dualprompt": (DualPrompt, {"general_length": 2, "expert_length": 2}),
    "codaprompt": (CODAPrompt, {"per_experience": 2, "length": 4}),
}
NAMES = pytest.mark.parametrize("name", STRATEGIES)


def small_vit(depth=3):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": depth, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0)


def make(name, plugins=(), model=None, **settings):
    strategy, own = STRATEGIES[name]
    usual = {"train_mb_size": 6, "train_epochs": 2, "eval_mb_size": 5, "lr": 0.02}
    return strategy(
        model=model or small_vit(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]),
        **{**own, **usual, **settings},
    )


def train(strategy, *experiences, **kwargs):
    for experience in experiences:
        torch.manual_seed(7)  # whatever was drawn before
        strategy.train(experience, eval_streams=[], **kwargs)


def state(strategy):
    return copy.deepcopy(strategy.model.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@torch.no_grad()
def logits(strategy, experiences):
    images = torch.stack([x for e in experiences for x, *_ in e.dataset.eval()])
    return strategy.model.eval()(images)


# ---- Training ---------------------------------------------------------------------------------


@NAMES
def test_it_learns_and_keeps_what_is_old_bit_for_bit(name):
    benchmark = make_benchmark(6, 3)
    strategy = make(name, model=create_backbone("embedded"), train_epochs=8, train_mb_size=8)
    for t, experience in enumerate(benchmark.train_stream):
        before = state(strategy)
        train(strategy, experience)
        after = state(strategy)
        for key, value in before.items():
            if key.startswith("backbone.") or (key.startswith("prompts.") and key[-1].isdigit()):
                assert torch.equal(after[key], value)  # digits are of earlier experiences
        head = "head.classifier.weight"
        assert torch.equal(after[head][: 2 * t], before[head][: 2 * t])
        assert len(after[head]) == 2 * (t + 1)
        last = {"l2p": ("prompts", "keys"), "dualprompt": ("general", f"experts.{t}", f"keys.{t}")}
        last["codaprompt"] = (f"components.{t}", f"keys.{t}", f"attention.{t}")
        trained = {n for n, p in strategy.model.named_parameters() if p.requires_grad}
        assert trained == {f"prompts.{n}" for n in last[name]} | {head, "head.classifier.bias"}
        assert all(p.grad is None for p in strategy.model.parameters())
        if t == 0:
            y = torch.tensor(benchmark.test_stream[0].dataset.targets)
            found = logits(strategy, benchmark.test_stream[:1]).argmax(1)
            assert (found == y).float().mean() > 0.8


@NAMES
def test_evaluation_changes_nothing(name):
    benchmark = make_benchmark(6, 3, per_class=4)
    plain, looking = make(name), make(name, eval_every=1)
    plain.model.head.std = looking.model.head.std = 0.0  # else new rows draw from torch's stream
    looking.eval(benchmark.test_stream)
    for experience in benchmark.train_stream[:2]:
        train(plain, experience, shuffle=False)
        looking.train(experience, eval_streams=[benchmark.test_stream], shuffle=False)
        looking.eval(benchmark.test_stream)
    assert same(state(plain), state(looking))


@NAMES
def test_the_loss_is_over_the_experience_s_classes_and_replayed_ones(name):
    benchmark, possible = make_benchmark(4, 2, per_class=4), []

    class Look(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            finite = torch.isfinite(strategy.mb_output).all(0)
            possible.append(finite.nonzero().flatten().tolist())

    train(make(name, [Look()]), *benchmark.train_stream)
    assert possible[0] == [0, 1]
    assert possible[-1] == [2, 3]
    replay = ReplayPlugin(8, storage_policy=ReservoirSamplingBuffer(8))
    train(make(name, [Look(), replay]), *benchmark.train_stream)
    assert {*possible[-1]} > {2, 3}


@NAMES
def test_mist_tunes_the_plain_vit_which_then_stays(name):
    benchmark, backbone = make_benchmark(4, 2), small_vit()
    backbone.patch_embed.requires_grad_(False)  # by the user
    mist = MISTPlugin(tune_on="first", tune_epochs=2, batch_size=8, lr=0.01, verbose=False)
    strategy = make(name, [mist], backbone)
    before = state(strategy)
    train(strategy, benchmark.train_stream[0])
    tuned = state(strategy)
    assert all(key.startswith("backbone.") for key in mist.selection.masks)
    assert not any("patch_embed" in key for key in mist.selection.masks)
    assert any(not torch.equal(tuned[key], before[key]) for key in mist.selection.masks)
    train(strategy, benchmark.train_stream[1])
    assert all(torch.equal(v, tuned[k]) for k, v in state(strategy).items() if k[:4] == "back")


@NAMES
def test_one_epoch_and_a_last_batch_of_one_image(name):
    strategy = make(name, train_mb_size=3, train_epochs=1, schedule="cosine")
    train(strategy, *make_benchmark(4, 2, per_class=2).train_stream)
    assert all(torch.isfinite(v).all() for v in state(strategy).values())


# ---- Queries ----------------------------------------------------------------------------------


@NAMES
def test_queries_of_test_images_are_computed_once_until_the_vit_changes(name):
    benchmark, found = make_benchmark(4, 2, per_class=4), []

    class Look(SupervisedPlugin):
        def after_eval_forward(self, strategy, **kwargs):
            found.append(strategy.mb_output)

    cached, not_cached = make(name, [Look()]), make(name, [Look()], cache=False)
    for strategy in (cached, not_cached):
        train(strategy, *benchmark.train_stream)
    images, query = [], cached.model.query

    def counted(x):
        images.append(len(x))
        return query(x)

    with mock.patch.object(cached.model, "query", counted):
        for _ in range(2):
            cached.eval(benchmark.test_stream)
            assert sum(images) == 16
        once, again = torch.cat(found).chunk(2)
        with torch.no_grad():
            cached.backbone.pos_embed += 0.1
        cached.eval(benchmark.test_stream)
        assert sum(images) == 32
    found.clear()
    not_cached.eval(benchmark.test_stream)
    assert torch.equal(once, torch.cat(found))
    assert torch.equal(once, again)


# ---- Arguments --------------------------------------------------------------------------------


@NAMES
def test_what_is_refused(name):
    with pytest.raises(TypeError, match="has no argument 'optimizer'"):
        make(name, optimizer=None)
    with pytest.raises(ValueError, match=r"ResNet has none\. Use a backbone"):
        make(name, model=timm.create_model("resnet18", num_classes=0))
    wrong_of = {"l2p": {"top_k": 5}, "dualprompt": {"key_loss_weight": -1}}
    wrong_of["codaprompt"] = {"length": 3}
    usual = {"lr": 0}, {"clip_grad_norm": 0}, {"schedule": "step"}, {"train_epochs": 0}
    for wrong in (*usual, wrong_of[name]):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            make(name, **wrong)
    parts = split_online_stream(make_benchmark(2, 1).train_stream, 4)
    with pytest.raises(ValueError, match="Train on the benchmark's own train_stream"):
        train(make(name), next(iter(parts)))


def test_blocks_are_the_published_ones_that_the_vit_has():
    assert make("dualprompt", model=small_vit(4)).prompts.expert_blocks == (2, 3)
    assert make("codaprompt", model=small_vit(4)).prompts.blocks == (0, 1, 2, 3)
    assert make("codaprompt", blocks=[2, 0]).prompts.blocks == (0, 2)
    for settings in ({"expert_blocks": (4,)}, {"expert_blocks": (1, 1)}, {"model": small_vit(2)}):
        with pytest.raises(ValueError, match=r"`expert_blocks` to be different numbers from 0 to"):
            make("dualprompt", **settings)


def test_a_classifier_is_removed_with_a_warning():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3)
    with pytest.warns(UserWarning, match="still had its classifier, head"):
        strategy = make("l2p", model=vit)
    train(strategy, make_benchmark(2, 1, per_class=2).train_stream[0])
