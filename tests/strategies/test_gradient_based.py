"""What strategies that train hold beyond the contract of all strategies."""

import copy
from unittest import mock

import pytest
import timm
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from conftest import make_benchmark
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche import MISTPlugin
from mist_avalanche.models.drift import weighted_shift
from mist_avalanche.models.experience_head import ExperienceLinear
from mist_avalanche.strategies import EASE, L2P, MOS, SLCA, SSIAT, CODAPrompt, CoFiMA, DualPrompt

_OF_SLCA = {"lr": 0.02, "backbone_lr": 1e-3, "samples_per_class": 8, "align_epochs": 2}
STRATEGIES = {
    "l2p": (L2P, {"size": 4, "length": 2, "top_k": 2, "lr": 0.02}),
    "dualprompt": (DualPrompt, {"general_length": 2, "expert_length": 2, "lr": 0.02}),
    "codaprompt": (CODAPrompt, {"per_experience": 2, "length": 4, "lr": 0.02}),
    "slca": (SLCA, _OF_SLCA),
    "cofima": (CoFiMA, _OF_SLCA),
    "ease": (EASE, {"lr": 0.2, "bottleneck": 4}),
    "ssiat": (SSIAT, {"lr": 0.1, "bottleneck": 4, "first_epochs": 2, "samples_per_class": 8}),
    "mos": (MOS, {"lr": 0.1, "bottleneck": 4, "align_epochs": 2}),
}
NAMES = pytest.mark.parametrize("name", STRATEGIES)
PROMPTS = pytest.mark.parametrize("name", ["l2p", "dualprompt", "codaprompt"])
MIST = {"tune_epochs": 2, "batch_size": 8, "lr": 0.05, "verbose": False, "seed": 0}


def small_vit(depth=3):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": depth, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0)


def make(name, plugins=(), model=None, **settings):
    strategy, own = STRATEGIES[name]
    usual = {"train_mb_size": 6, "train_epochs": 2, "eval_mb_size": 5}
    return strategy(
        model=model or small_vit(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        **{**own, **usual, **settings},
    )


def train(strategy, *experiences, **kwargs):
    for experience in experiences:
        torch.manual_seed(7)  # whatever was drawn before
        strategy.train(experience, **{"eval_streams": [], **kwargs})


def state(strategy):
    return copy.deepcopy(strategy.model.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


class Look(SupervisedPlugin):
    """Calls functions with the strategy, by the names of hooks."""

    def __init__(self, **hooks):
        super().__init__()
        for name, look in hooks.items():
            setattr(self, name, lambda strategy, look=look, **_kwargs: look(strategy))


# ---- All ----------------------------------------------------------------------------------------


@NAMES
def test_the_loss_is_over_the_experience_s_classes_and_replayed_ones(name):
    benchmark, possible = make_benchmark(4, 2, per_class=4), []

    def note(strategy):
        finite = torch.isfinite(strategy.mb_output)
        assert finite.gather(1, strategy.mb_y[:, None]).all()
        possible.append(finite.all(0).nonzero().flatten().tolist())

    train(make(name, [Look(after_forward=note)]), *benchmark.train_stream)
    assert (possible[0], possible[-1]) == ([0, 1], [2, 3])
    replay = ReplayPlugin(8, storage_policy=ReservoirSamplingBuffer(8))
    strategy = make(name, [Look(after_forward=note), replay])
    train(strategy, *benchmark.train_stream)
    assert {*possible[-1]} > {2, 3}
    assert strategy.optimizer is None
    assert all(p.grad is None for p in strategy.model.parameters())


@NAMES
def test_an_idle_mist_changes_no_bit(name):
    benchmark, runs = make_benchmark(4, 2, per_class=4), []
    idle = MISTPlugin(select_rate=1.0, drop_rate=0.0, tune_epochs=0, batch_size=8, verbose=False)
    for plugins in ([], [idle]):
        strategy = make(name, plugins)
        train(strategy, *benchmark.train_stream)
        runs.append(state(strategy))
    assert same(*runs)


@NAMES
def test_what_is_refused(name):
    wrong = {"lr": 0, "train_epochs": 0}
    wrong |= {
        "l2p": {"top_k": 5, "clip_grad_norm": 0},
        "dualprompt": {"key_loss_weight": -1, "expert_blocks": (3,)},
        "codaprompt": {"length": 3, "blocks": ()},
        "slca": {"milestones": (2,), "weight_decay": -1},
        "cofima": {"new_weight": 1.5, "fisher_clip": 0},
        "ease": {"alpha": -1, "bottleneck": 0, "complement": "none"},
        "ssiat": {"first_epochs": 0, "scale": 0, "margin": -1, "drift_sigma": 0, "align_lr": 0},
        "mos": {"merge": 1.5, "separation": -1, "rounds": 0, "samples_per_class": 0},
    }[name]
    for argument, value in wrong.items():
        with pytest.raises(ValueError, match=f"`{argument}`"):
            make(name, **{argument: value})
    with pytest.raises(TypeError, match="optimizer"):
        make(name, optimizer=None)
    benchmark = make_benchmark(4, 2)
    parts = split_online_stream(benchmark.train_stream, 4)
    with pytest.raises(ValueError, match="Train on the benchmark's own train_stream"):
        train(make(name), next(iter(parts)))
    if name not in ("slca", "cofima"):
        with pytest.raises(ValueError, match=r"ResNet has none\. Use a backbone"):
            make(name, model=timm.create_model("resnet18", num_classes=0))
    if name not in ("slca", "cofima", "ssiat"):
        with pytest.raises(ValueError, match=r"cannot follow .*tune_on='first'"):
            train(make(name, [MISTPlugin(tune_on="every", **MIST)]), benchmark.train_stream[0])


# ---- Prompts ------------------------------------------------------------------------------------


@PROMPTS
def test_only_the_experience_s_prompts_and_the_head_are_trained(name):
    vit = small_vit()
    vit.patch_embed.requires_grad_(False)  # by the user
    strategy = make(name, [MISTPlugin(**MIST)], vit)
    last = {"l2p": ("prompts", "keys"), "dualprompt": ("general", "experts.{}", "keys.{}")}
    last["codaprompt"] = ("components.{}", "keys.{}", "attention.{}")
    for t, experience in enumerate(make_benchmark(6, 3).train_stream):
        before = state(strategy)
        train(strategy, experience)
        expected = {f"prompts.{n.format(t)}" for n in last[name]}
        expected |= {"head.classifier.weight", "head.classifier.bias"}
        assert {n for n, p in strategy.model.named_parameters() if p.requires_grad} == expected
        changed = {
            n for n, v in state(strategy).items() if not torch.equal(v, before.get(n, v + 1))
        }
        if t == 0:
            assert any(n.startswith("backbone.") for n in changed)  # by MIST
            assert not any("patch_embed" in n for n in changed)
        else:
            assert changed == expected | {"head.active_units"}


@PROMPTS
def test_evaluation_changes_nothing(name):
    benchmark = make_benchmark(6, 3, per_class=4)
    plain, looking = make(name), make(name, eval_every=1)
    plain.model.head.std = looking.model.head.std = 0.0  # else new rows draw from torch's stream
    looking.eval(benchmark.test_stream)
    for experience in benchmark.train_stream[:2]:
        train(plain, experience, shuffle=False)
        train(looking, experience, shuffle=False, eval_streams=[benchmark.test_stream])
        looking.eval(benchmark.test_stream)
    assert same(state(plain), state(looking))


@PROMPTS
def test_queries_of_test_images_are_computed_once_until_the_vit_changes(name):
    benchmark, found = make_benchmark(4, 2, per_class=4), []
    look = Look(after_eval_forward=lambda strategy: found.append(strategy.mb_output))
    cached, not_cached = make(name, [look]), make(name, [look], cache=False)
    for strategy in (cached, not_cached):
        train(strategy, *benchmark.train_stream)
    with mock.patch.object(cached.model, "query", wraps=cached.model.query) as query:
        for _ in range(2):
            cached.eval(benchmark.test_stream)
            assert query.call_count == 4  # batches of 5 in two experiences of 8
        once, again = torch.cat(found).chunk(2)
        with torch.no_grad():
            cached.backbone.pos_embed += 0.1
        cached.eval(benchmark.test_stream)
        assert query.call_count == 8
    found.clear()
    not_cached.eval(benchmark.test_stream)
    assert torch.equal(once, torch.cat(found))
    assert torch.equal(once, again)


def test_blocks_are_the_published_ones_that_the_vit_has():
    assert make("dualprompt", model=small_vit(4)).prompts.expert_blocks == (2, 3)
    assert make("codaprompt", model=small_vit(4)).prompts.blocks == (0, 1, 2, 3)
    assert make("codaprompt", blocks=[2, 0]).prompts.blocks == (0, 2)
    with pytest.raises(ValueError, match="`expert_blocks`"):
        make("dualprompt", model=small_vit(2))


# ---- SLCA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks_steps", [False, True])
def test_slca_moves_every_weight_unless_its_steps_are_masked(masks_steps):
    benchmark, mist = make_benchmark(4, 2, per_class=4), MISTPlugin(**MIST)
    strategy = make("slca", [mist], masks_steps=masks_steps)
    before = {name: p.detach().clone() for name, p in strategy.backbone.named_parameters()}
    train(strategy, *benchmark.train_stream)
    assert len(mist.losses) == 2
    for name, p in strategy.backbone.named_parameters():
        others = ~mist.selection.masks[f"backbone.{name}"]
        if others.any():
            assert torch.equal(p[others], before[name][others]) == masks_steps


def test_rows_are_trained_once_and_aligned_for_evaluation_only():
    benchmark, strategy = make_benchmark(6, 3, per_class=4), make("slca")
    train(strategy, benchmark.train_stream[0])
    head = strategy.head
    assert torch.equal(head.weight, head.aligned_weight)  # one experience needs no alignment
    train(strategy, benchmark.train_stream[1])
    rows = head.weight.clone()
    assert not torch.isclose(head.aligned_weight, rows).any()
    train(strategy, benchmark.train_stream[2])
    assert torch.equal(head.weight[:4], rows)
    x = torch.rand(3, 24)
    torch.testing.assert_close(head(x), x @ head.aligned_weight.T + head.aligned_bias)


def test_rows_start_near_zero():
    head = ExperienceLinear()
    head.grow(2)
    head.begin([0, 1], 400)
    assert 0.018 < head.part.weight.std() < 0.022
    assert not head.part.bias.any()


# ---- EASE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [None, 1.0])
def test_subspaces_stay_where_they_are(beta):
    benchmark, mist = make_benchmark(6, 3, per_class=4), MISTPlugin(**MIST)
    strategy, seen = make("ease", [mist], beta=beta), []
    x = torch.stack([x for x, *_ in benchmark.test_stream[0].dataset])
    for experience in benchmark.train_stream:
        train(strategy, experience)
        with torch.no_grad():
            features = strategy.model.eval().features(x)
        for earlier in seen:
            assert torch.equal(features[:, : earlier.shape[1]], earlier)
        seen.append(features)
    assert len(mist.losses) == 1
    assert features.shape == (len(x), 3 if beta is None else 4, 24)
    assert not any(p.requires_grad for p in strategy.model.parameters())


def test_features_of_test_images_are_computed_once_per_subspace():
    benchmark, strategy = make_benchmark(4, 2, per_class=4), make("ease", eval_mb_size=8)
    with mock.patch.object(
        strategy.model, "features_of", wraps=strategy.model.features_of
    ) as computed:
        for t, (experience, passes) in enumerate(zip(benchmark.train_stream, (1, 3), strict=True)):
            train(strategy, experience)
            computed.reset_mock()
            cached = [strategy.eval(benchmark.test_stream[: t + 1]) for _ in range(2)]
            assert computed.call_count == passes  # of 8 images each
    plain = make("ease", cache=False)
    plain.load_state_dict(strategy.state_dict())
    assert cached[0] == cached[1] == plain.eval(benchmark.test_stream)


# ---- SSIAT and MOS ------------------------------------------------------------------------------


def test_old_means_follow_mist_and_the_adapter():
    benchmark, mist = make_benchmark(4, 2, per_class=4), MISTPlugin(**MIST)
    strategy, features = make("ssiat", [mist]), []
    x = torch.stack([x for x, *_ in benchmark.train_stream[1].dataset.eval()])
    for experience in benchmark.train_stream:
        before, means = state(strategy), copy.deepcopy(strategy.gaussians.means)
        train(strategy, experience)
        with torch.no_grad():
            features.append(strategy.model.eval().features(x))
    assert len(mist.losses) == 2
    now = state(strategy)
    assert any(n.startswith("backbone.") and not torch.equal(v, now[n]) for n, v in before.items())
    old = torch.stack([means[y] for y in (0, 1)])
    moved = old + weighted_shift(old, *features)
    torch.testing.assert_close(
        torch.stack([strategy.gaussians.means[y] for y in (0, 1)]), moved, rtol=0, atol=1e-5
    )
    assert not torch.isclose(moved, old, atol=1e-3).all()


def test_an_adapter_merges_with_all_earlier_ones():
    benchmark = make_benchmark(6, 3, per_class=4)
    for merge in (0.0, 1.0):
        strategy = make("mos", merge=merge)
        train(strategy, *benchmark.train_stream)
        first, second, third = (dict(a.named_parameters()) for a in strategy.model.adapters)
        for name, p in third.items():
            mean = (first[name] + second[name]) / 2
            assert torch.allclose(p, mean) == (merge == 1)


def test_an_image_goes_from_subspace_to_subspace():
    strategy, x = make("mos"), torch.rand(6, 3, 32, 32)
    train(strategy, *make_benchmark(6, 3, per_class=4).train_stream)
    head, found = strategy.model.eval().head, []
    with torch.no_grad():
        features = strategy.model.features(x)
        for image in features:
            cosines = head.first(image[:1])
            z, a = None, int(head.own[cosines.argmax()])
            for _ in range(4):
                z = head.linear(image[a : a + 1])
                if (chosen := int(head.own[z.argmax()])) == a:
                    break
                a = chosen
            found.append(z.softmax(1) + (3 * cosines).softmax(1))
        torch.testing.assert_close(strategy.model(x).exp(), torch.cat(found))
    assert head.own.tolist() == [0, 0, 1, 1, 2, 2]
