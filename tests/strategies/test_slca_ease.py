import copy

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from conftest import make_benchmark
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from mist_avalanche import MISTPlugin
from mist_avalanche.models.alignment import ClassGaussians, align
from mist_avalanche.models.subspaces import SubspaceHead
from mist_avalanche.strategies import EASE, SLCA

STRATEGIES = {
    "slca": (SLCA, {"lr": 0.02, "backbone_lr": 1e-3, "samples_per_class": 8, "align_epochs": 2}),
    "ease": (EASE, {"lr": 0.2, "bottleneck": 4}),
}
NAMES = pytest.mark.parametrize("name", STRATEGIES)
MIST = {"tune_epochs": 2, "batch_size": 8, "lr": 0.05, "verbose": False, "seed": 0}


def vit():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0)


def flat(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, width))


def make(name, plugins=(), model=None, **settings):
    strategy, own = STRATEGIES[name]
    usual = {"train_mb_size": 6, "train_epochs": 2, "eval_mb_size": 8}
    return strategy(
        model=model or vit(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        **{**own, **usual, **settings},
    )


def train(strategy, *experiences):
    for experience in experiences:
        strategy.train(experience, eval_streams=[])


def state(strategy):
    return copy.deepcopy(strategy.model.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def images(experiences):
    return torch.stack([x for e in experiences for x, *_ in e.dataset.eval()])


# ---- Both ---------------------------------------------------------------------------------------


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


@NAMES
def test_replayed_classes_are_trained_along(name):
    benchmark, logits = make_benchmark(4, 2, per_class=4), []

    class Look(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            logits.append((strategy.mb_y.clone(), strategy.mb_output.detach()))

    strategy = make(name, [ReplayPlugin(4), Look()], train_epochs=1)
    train(strategy, *benchmark.train_stream)
    assert any(int(y.min()) < 2 and int(y.max()) >= 2 for y, _ in logits)
    for y, found in logits:
        assert torch.isfinite(found.gather(1, y[:, None])).all()
    assert strategy.optimizer is None
    assert all(p.grad is None for p in strategy.model.parameters())


@NAMES
def test_what_is_refused(name):
    wrong = {"lr": 0, "train_epochs": 0, "weight_decay": -1}
    if name == "ease":
        wrong |= {"alpha": -1, "bottleneck": 0, "complement": "none"}
    for argument, value in wrong.items():
        with pytest.raises(ValueError, match=f"`{argument}`"):
            make(name, **{argument: value})
    with pytest.raises(ValueError, match="`beta` has no effect"):
        make("ease", alpha=None, beta=1.0)
    with pytest.raises(ValueError, match="would never fall"):
        make("slca", milestones=(2,))
    following = make("ease", [MISTPlugin(tune_on="every", **MIST)])
    with pytest.raises(ValueError, match=r"EASE cannot follow .*tune_on='first'"):
        train(following, make_benchmark(4, 2).train_stream[0])


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
    expected = x @ head.aligned_weight.T + head.aligned_bias
    torch.testing.assert_close(head(x), expected)


def test_rows_start_near_zero():
    starts = []

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            starts.append(copy.deepcopy(strategy.head.part))

    train(make("slca", [Look()], flat(400), train_epochs=1), *make_benchmark(4, 2).train_stream)
    for part in starts:
        assert part.weight.shape == (2, 400)
        assert 0.018 < part.weight.std() < 0.022
        assert not part.bias.any()


def test_gaussians_are_computed_in_float64():
    generator = torch.Generator().manual_seed(0)
    features = 100 + 100 * torch.randn(5, 12, generator=generator)  # fewer images than D
    gaussians = ClassGaussians()
    gaussians.add(features, torch.zeros(5, dtype=torch.int64))
    covariance = torch.from_numpy(np.cov(features.double().numpy().T)) + 1e-4 * torch.eye(12)
    expected = torch.linalg.cholesky(covariance)
    assert expected.diagonal().min() < 0.02  # the 1e-4, beside entries of 100
    assert gaussians.factors[0].dtype == torch.float32
    torch.testing.assert_close(gaussians.factors[0].double(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        gaussians.add(features * torch.nan, torch.ones(5, dtype=torch.int64))
    assert gaussians.classes == [0]


def test_a_class_that_comes_back_has_the_gaussian_of_all_its_features():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, whole, parts = torch.zeros(9, dtype=torch.int64), ClassGaussians(), ClassGaussians()
    whole.add(features, labels)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 9)):
        parts.add(features[rows], labels[rows])
    assert (parts.counts, parts.experiences) == ({0: 9}, {0: 2})
    torch.testing.assert_close(parts.means[0], whole.means[0])
    torch.testing.assert_close(parts.factors[0], whole.factors[0])


def test_an_alignment_separates_the_classes_and_leaves_other_rows():
    generator, gaussians = torch.Generator().manual_seed(0), ClassGaussians()
    for y in (0, 3):
        features = torch.randn(30, 6, generator=generator) + 3 * F.one_hot(torch.tensor(y), 6)
        gaussians.add(features, torch.full((30,), y))
    weight, bias = torch.zeros(5, 6), torch.zeros(5)
    settings = {"epochs": 4, "samples": 64, "lr": 0.1, "temperature": None}
    losses = torch.stack([*align(weight, bias, gaussians, generator=generator, **settings)])
    assert losses.shape == (4, 2)
    assert losses[-1].mean() < 0.3 * losses[0].mean()
    assert not weight[[1, 2, 4]].any()
    assert (weight @ torch.eye(6)[[0, 3]].T).argmax(0).tolist() == [0, 3]


# ---- EASE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [None, 1.0])
@pytest.mark.parametrize("complement", ["all", "newest"])
def test_the_subspace_head_is_the_formula(beta, complement):
    """Also where class 1 comes back in the third of four experiences."""
    generator = torch.Generator().manual_seed(0)
    head, first, seen = SubspaceHead(0.2, beta, complement), 0 if beta is None else 1, {}
    own, prototypes = {}, {}  # by class, and by block and class
    for t, classes in enumerate([[0, 1, 2], [4, 3], [5, 1], [6, 7, 8]]):
        newest, y = t + first, torch.tensor(classes).repeat_interleave(3)
        features = torch.randn(len(y), newest + 1, 6, generator=generator, dtype=torch.float64)
        head.add_subspace(features, y)
        for f, c in zip(features, y.tolist(), strict=True):
            own.setdefault(c, newest)
            for b in range(newest + 1):
                seen.setdefault((b, c), []).append(f[b])
        prototypes |= {key: torch.stack(found).mean(0) for key, found in seen.items()}
        for b in range(newest + 1) if complement == "all" else [newest]:
            for c in own.keys() - {c for block, c in seen if block == b}:
                others = [r for r in own if (b, r) in seen and (own[c], r) in seen]
                there = prototypes[own[c], c]
                similarity = [F.cosine_similarity(there, prototypes[own[c], r], 0) for r in others]
                shares = torch.stack(similarity).softmax(0)
                prototypes[b, c] = sum(
                    a * prototypes[b, r] for a, r in zip(shares, others, strict=True)
                )
    x = torch.randn(4, newest + 1, 6, generator=generator, dtype=torch.float64)
    logits = torch.zeros(4, 9, dtype=torch.float64)
    for (b, c), prototype in prototypes.items():
        torch.testing.assert_close(head.prototypes[b, c], prototype)
        w = beta if b < first else 1 if b == own[c] else 0.2 / t
        logits[:, c] += w * F.cosine_similarity(x[:, b], prototype[None])
    torch.testing.assert_close(head(x), logits)


@pytest.mark.parametrize("beta", [None, 1.0])
def test_subspaces_stay_where_they_are(beta):
    benchmark, mist = make_benchmark(6, 3, per_class=4), MISTPlugin(**MIST)
    strategy, x, seen = make("ease", [mist], beta=beta), images(benchmark.test_stream), []
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


def test_every_adapter_starts_as_the_identity_with_numbers_of_its_own():
    starts = []

    class Look(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            starts.append(copy.deepcopy(strategy.adapter))

    train(make("ease", [Look()], train_epochs=1), *make_benchmark(4, 2).train_stream)
    for adapter in starts:
        assert adapter.training
        assert not any(p.any() for p in adapter.up.parameters())
    assert not torch.equal(starts[0].down[0].weight, starts[1].down[0].weight)


def test_features_of_test_images_are_computed_once_per_subspace():
    benchmark, strategy, computed = make_benchmark(4, 2, per_class=4), make("ease"), []
    features = strategy.model.features_in
    strategy.model.features_in = lambda block, x: computed.append(len(x)) or features(block, x)
    for t, (experience, passes) in enumerate(zip(benchmark.train_stream, (8, 8 + 16), strict=True)):
        train(strategy, experience)
        computed.clear()
        cached = [strategy.eval(benchmark.test_stream[: t + 1]) for _ in range(2)]
        assert sum(computed) == passes
    plain = make("ease", cache=False)
    plain.load_state_dict(strategy.state_dict())
    assert cached[0] == cached[1] == plain.eval(benchmark.test_stream)
