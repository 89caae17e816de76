import copy
import random

import numpy as np
import pytest
import timm
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from conftest import make_benchmark
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.strategies import APER, RanPAC, first_session
from mist_avalanche.strategies.first_session import PUBLISHED, adapt, session_settings

ADAPTERS = pytest.mark.parametrize("adapter", PUBLISHED)
BOTH = pytest.mark.parametrize("name", ["aper", "ranpac"])
SESSION = {"lr": 0.1, "train_epochs": 2, "train_mb_size": 6}
MIST = {"tune_epochs": 2, "batch_size": 8, "lr": 0.01, "verbose": False, "seed": 0}


def vit():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0)


def make(name="aper", adapter="adapter", plugins=(), model=None, **session):
    common = {"model": model or vit(), "plugins": list(plugins), "eval_mb_size": 8}
    common["evaluator"] = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    session = {**SESSION, **session}
    if name == "aper":
        return APER(adapter=adapter, **session, **common)
    args = {"first_session": adapter, "first_session_args": session}
    return RanPAC(n_random_features=30, **args, **common)


def train(strategy, *experiences):
    for experience in experiences:
        strategy.train(experience, eval_streams=[])


def state(module):
    return copy.deepcopy(module.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def noisy(x):
    return x + 0.1 * torch.rand(x.shape)


# ---- adapt() ------------------------------------------------------------------------------------


@ADAPTERS
def test_only_the_module_is_trained(adapter):
    def outside():
        modes = [m.training for m in backbone.modules()]
        gradients = [(p.requires_grad, p.grad is None) for p in backbone.parameters()]
        streams = (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )
        return modes, gradients, streams

    backbone, experience = vit(), make_benchmark(2, 1).train_stream[0]
    backbone.patch_embed.requires_grad_(False)
    before, around = state(backbone), outside()
    module = adapt(backbone, experience, adapter=adapter, **SESSION)
    assert outside() == around
    assert same(before, backbone.state_dict())
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    x = torch.stack([x for x, *_ in experience.dataset.eval()])
    with torch.no_grad():
        assert not torch.allclose(module(backbone, x), backbone.eval()(x), atol=1e-4)
    if adapter == "finetune":
        assert same(state(module.backbone.patch_embed), backbone.patch_embed.state_dict())


def test_it_learns_and_a_seed_says_what_is_random(monkeypatch):
    losses, original = [], first_session.train
    monkeypatch.setattr(
        first_session, "train", lambda *args, **kwargs: losses.append(original(*args, **kwargs))
    )
    experience = make_benchmark(4, 1, per_class=4, train_transform=noisy).train_stream[0]
    settings = {"adapter": "ssf", "lr": 0.3, "train_epochs": 15, "train_mb_size": 8}
    modules = [adapt(create_backbone(), experience, seed=s, **settings) for s in (0, 0, 1)]
    assert losses[0].shape == (2 * 15,)
    assert losses[0][-2:].mean() < 0.7 * losses[0][:2].mean()
    assert same(*map(state, modules[:2]))
    assert not same(*map(state, modules[1:]))


def test_published_settings_and_what_is_refused():
    published = {
        "adapter": (20, 0.01, 48),
        "ssf": (20, 0.01, 48),
        "vpt_deep": (5, 0.05, 16),
        "vpt_shallow": (20, 0.01, 48),
        "finetune": (5, 0.01, 128),
    }
    for adapter, values in published.items():
        s = session_settings(adapter, lr=None)
        assert (s["train_epochs"], s["lr"], s["train_mb_size"]) == values
        assert (s["weight_decay"], s["min_lr"]) == (5e-4, 0)
    for name in ("aper", "ranpac"):
        with pytest.raises(ValueError, match="VisionTransformer, and ResNet has none"):
            make(name, model=timm.create_model("resnet18", num_classes=0))
        for wrong in ({"lr": 0}, {"train_epochs": 0}, {"weight_decay": -1}, {"dropout": 1}):
            with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
                make(name, **wrong)
        with pytest.raises(ValueError, match=r"'ssf' has no setting 'bottleneck'\. It has"):
            make(name, "ssf", bottleneck=4)
    with pytest.raises(ValueError, match=r"has no setting 'rate'. It has .*lr"):
        make("ranpac", rate=0.1)
    with pytest.raises(ValueError, match=r"Expected `adapter` to be"):
        make(adapter="lora")
    following = make("aper", plugins=[MISTPlugin(tune_on="every", **MIST)])
    with pytest.raises(ValueError, match=r"APER cannot follow .*tune_on='first'"):
        train(following, *make_benchmark(4, 2).train_stream)


# ---- APER and RanPAC ----------------------------------------------------------------------------


@BOTH
@ADAPTERS
def test_mist_tunes_and_the_session_adapts_in_the_first_experience_only(name, adapter):
    benchmark, seen = make_benchmark(6, 3), []

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            seen.append((state(strategy.backbone), state(strategy.model.adapters)))

    mist = MISTPlugin(**MIST)
    strategy = make(name, adapter, [mist, Look()])
    pretrained = state(strategy.backbone)
    train(strategy, *benchmark.train_stream)
    (tuned, nothing), *later = seen
    assert len(mist.losses) == 1
    assert not nothing
    assert not same(pretrained, tuned)
    for backbone, adapters in later:
        in_place = name == "ranpac" and adapter == "finetune"
        assert same(tuned, backbone) != in_place
        assert bool(adapters) != in_place
        assert same(backbone, strategy.backbone.state_dict())
        assert same(adapters, strategy.model.adapters.state_dict())
    assert strategy.head.counts.tolist() == 6 * [8]
    assert all(p.requires_grad for p in strategy.backbone.parameters())


def test_finetune_takes_any_backbone():
    benchmark = make_benchmark(4, 2, per_class=4)
    resnet = timm.create_model("resnet10t", num_classes=0)
    strategy, before = make("aper", "finetune", model=resnet, train_epochs=1), state(resnet)
    train(strategy, *benchmark.train_stream)
    assert same(before, resnet.state_dict())
    assert next(iter(strategy.eval(benchmark.test_stream).values())) > 0.3
