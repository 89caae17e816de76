"""What MISTPlugin runs with, built small: strategies of Avalanche, models, optimizers, plugins.

docs/compatibility.md has a row for each.
"""

import random
import warnings
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import (
    BaseModel,
    FeatureExtractorModel,
    IncrementalClassifier,
    SCRModel,
    make_icarl_net,
)
from avalanche.models.pnn import PNN
from avalanche.training import plugins as avalanche_plugins
from avalanche.training import supervised
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import ar1
from avalanche.training.supervised.lamaml import LaMAML
from conftest import make_benchmark
from torch import nn

from mist_avalanche import MISTPlugin

pytestmark = pytest.mark.slow
SHAPE, N_CLASSES = (3, 16, 16), 6
QUICK = {"train_mb_size": 4, "eval_mb_size": 8, "evaluator": None}
warnings.simplefilter("ignore")


class SmallNet(nn.Module, BaseModel):
    """Two convolutions and a classifier."""

    def __init__(self, classifier=None, norm=None, channels=3):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.GroupNorm(2, 8) if norm is None else norm,
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(16, N_CLASSES) if classifier is None else classifier

    def forward(self, x):
        return self.classifier(self.features(x))

    def get_features(self, x):
        return self.features(x)


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3, **changes)


def hosted(strategy, plugins, model=SmallNet, optimizer=sgd, **changes):
    """A strategy on a model, with its own arguments."""
    made = model()
    settings = {"criterion": nn.CrossEntropyLoss(), **QUICK, **changes}
    if strategy is not supervised.OnlineNaive:
        settings = {"train_epochs": 1, **settings}
    return strategy(model=made, optimizer=optimizer(made), plugins=plugins, **settings)


def icarl(plugins):
    net = make_icarl_net(num_classes=N_CLASSES, n=1)
    return supervised.ICaRL(
        feature_extractor=net.feature_extractor,
        classifier=net.classifier,
        optimizer=sgd(net),
        memory_size=12,
        buffer_transform=None,
        fixed_memory=True,
        train_epochs=1,
        plugins=plugins,
        **QUICK,
    )


def scr(plugins):
    model = SCRModel(SmallNet().features, nn.Linear(16, 8))
    return supervised.SCR(
        model=model,
        optimizer=sgd(model),
        augmentations=nn.Identity(),
        mem_size=12,
        batch_size_mem=4,
        plugins=plugins,
        **QUICK,
    )


def streaming_lda(plugins):
    model = FeatureExtractorModel(SmallNet().features, nn.Identity())
    return supervised.StreamingLDA(
        slda_model=model,
        criterion=nn.CrossEntropyLoss(),
        input_size=16,
        num_classes=N_CLASSES,
        plugins=plugins,
        **QUICK,
    )


def learning_to_prompt(plugins):
    return supervised.LearningToPrompt(
        model_name="vit_tiny_patch16_224",
        num_classes=N_CLASSES,
        pretrained=False,
        plugins=plugins,
        **QUICK,
    )


def er_aml(plugins):
    model = SmallNet()
    return supervised.ER_AML(
        model=model,
        feature_extractor=model.features,
        optimizer=sgd(model),
        mem_size=24,
        batch_size_mem=4,
        plugins=plugins,
        **QUICK,
    )


def ar1_small(plugins):
    """Its MobileNet without the download of its weights."""
    without = partial(ar1.MobilenetV1, pretrained=False)
    with mock.patch.object(ar1, "MobilenetV1", side_effect=lambda **_: without()):
        return supervised.AR1(plugins=plugins, train_epochs=1, rm_sz=12, **QUICK)


def pnn(plugins):
    columns = partial(PNN, num_layers=2, in_features=768, hidden_features_per_column=10)
    return hosted(supervised.PNNStrategy, plugins, columns)


def rwalk(plugins):
    walk = avalanche_plugins.RWalkPlugin(delta_t=2)  # fewer steps than an experience has
    return hosted(supervised.Naive, [*plugins, walk])


@dataclass(frozen=True)
class Case:
    """Something that MISTPlugin is run with.

    Args:
        build: gives the strategy for a list of plugins.
        shape: of the images.
        task_labels: whether the benchmark has one for each experience.
        mist: arguments of MISTPlugin that this needs.
    """

    build: object
    shape: tuple[int, ...] = SHAPE
    task_labels: bool = False
    mist: tuple[tuple[str, object], ...] = ()


def of(strategy, **settings):
    return Case(partial(hosted, strategy, **settings))


s = supervised
MEMORY = {"mem_size": 24, "batch_size_mem": 4}
STRATEGIES = {
    "Naive": of(s.Naive),
    "Cumulative": of(s.Cumulative),
    "JointTraining": of(s.JointTraining),
    "FromScratchTraining": of(s.FromScratchTraining),
    "Replay": of(s.Replay, mem_size=12),
    "GDumb": of(s.GDumb, mem_size=12),
    "EWC (separate)": of(s.EWC, ewc_lambda=1.0),
    "EWC (online)": of(s.EWC, ewc_lambda=1.0, mode="online", decay_factor=0.9),
    "SynapticIntelligence": of(s.SynapticIntelligence, si_lambda=1.0),
    "MAS": of(s.MAS),
    "LwF": of(s.LwF, alpha=1.0, temperature=2.0),
    "LFL": of(s.LFL, lambda_e=0.1),
    "AGEM": of(s.AGEM, patterns_per_exp=8, sample_size=4),
    "GEM": of(s.GEM, patterns_per_exp=8),
    "GSS_greedy": of(s.GSS_greedy, mem_size=12, mem_strength=1, input_size=list(SHAPE)),
    "CoPE": of(
        s.CoPE,
        model=lambda: SmallNet(nn.Linear(16, 8)),
        criterion=avalanche_plugins.PPPloss,
        mem_size=12,
        n_classes=N_CLASSES,
        p_size=8,
    ),
    "CWRStar": of(
        s.CWRStar,
        cwr_layer_name="classifier",
    ),
    "AR1": Case(ar1_small, (3, 128, 128)),
    "ICaRL": Case(icarl, (3, 32, 32)),
    "BiC": of(s.BiC, mem_size=12, stage_2_epochs=1),
    "DER": of(s.DER, **MEMORY),
    "ER_ACE": of(s.ER_ACE, **MEMORY),
    "ER_AML": Case(er_aml),
    "MIR": of(s.MIR, mem_size=12, subsample=8, batch_size_mem=4),
    "MER": of(s.MER, n_inner_steps=2, **MEMORY),
    "SCR": Case(scr),
    "RWalk": Case(rwalk),
    "LearningToPrompt": Case(learning_to_prompt, (3, 224, 224)),
    "StreamingLDA": Case(
        streaming_lda,
        mist=(("classifier", "train_classifier"),),
    ),
    "OnlineNaive": of(s.OnlineNaive),
    "GenerativeReplay": Case(
        partial(hosted, s.GenerativeReplay, model=lambda: SmallNet(channels=1)), (1, 28, 28)
    ),
    "PNNStrategy": Case(pnn, task_labels=True),
    "LaMAML": of(LaMAML, n_inner_updates=2),
    "FeatureReplay": of(s.FeatureReplay, last_layer_name="classifier", **MEMORY),
}


class Tied(SmallNet):
    """Two layers with one weight, and one module used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.features(x)
        return self.classifier(self.second(self.first(self.first(x)).relu()))


def with_dropout():
    model = SmallNet()
    model.features.insert(5, nn.Dropout(0.5))
    return model


def partly_frozen():
    model = SmallNet()
    model.features[0].requires_grad_(False)
    return model


class Half(SmallNet):
    """A backbone in half precision, a classifier in single precision."""

    def __init__(self):
        super().__init__()
        self.features.bfloat16()

    def forward(self, x):
        return self.classifier(self.features(x.bfloat16()).float())


MODELS = {
    "BatchNorm": of(s.Naive, model=lambda: SmallNet(norm=nn.BatchNorm2d(8))),
    "dropout": of(s.Naive, model=with_dropout),
    "tied weights and a module used twice": of(s.Naive, model=Tied),
    "a part without requires_grad": of(s.Naive, model=partly_frozen),
    "a head that grows (IncrementalClassifier)": of(
        s.Naive, model=lambda: SmallNet(IncrementalClassifier(16))
    ),
    "a backbone in bfloat16": of(s.Naive, model=Half),
}


def two_groups(model):
    groups = [
        {"params": model.features.parameters(), "lr": 0.01, "weight_decay": 0.1},
        {"params": model.classifier.parameters()},
    ]
    return torch.optim.AdamW(groups, 0.05)


class ClipGradients(SupervisedPlugin):
    """As users write it."""

    def before_update(self, strategy, **kwargs):
        nn.utils.clip_grad_norm_(strategy.model.parameters(), 1.0)


class Accumulating(supervised.Naive):
    """Steps after every second batch."""

    def optimizer_step(self):
        if self.clock.train_exp_iterations % 2:
            super().optimizer_step()


def scheduled(plugins):
    host = hosted(supervised.Naive, plugins, train_epochs=2)
    schedule = torch.optim.lr_scheduler.StepLR(host.optimizer, 1, 0.5)
    host.plugins.append(avalanche_plugins.LRSchedulerPlugin(schedule))
    return host


def evaluating(plugins, *more, **changes):
    changes["evaluator"] = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True), loggers=[]
    )
    return hosted(supervised.Naive, [*plugins, *more], train_epochs=2, **changes)


def stopping_early(plugins):
    stop = avalanche_plugins.EarlyStoppingPlugin(1, "train_stream")
    return evaluating(plugins, stop, eval_every=1)


def ordered(order, plugins):
    """MISTPlugin among others that touch gradients and data, in some order."""
    plugins = {
        "mist": plugins,
        "replay": [avalanche_plugins.ReplayPlugin(12)],
        "ewc": [avalanche_plugins.EWCPlugin(1.0)],
        "clip": [ClipGradients()],
    }
    return hosted(supervised.Naive, [p for name in order for p in plugins[name]])


SURROUNDINGS = {
    "Adam": of(s.Naive, optimizer=lambda m: torch.optim.Adam(m.parameters(), 0.01)),
    "RMSprop": of(s.Naive, optimizer=lambda m: torch.optim.RMSprop(m.parameters(), 0.01)),
    "Adagrad": of(s.Naive, optimizer=lambda m: torch.optim.Adagrad(m.parameters(), 0.01)),
    "SGD with Nesterov momentum": of(s.Naive, optimizer=partial(sgd, nesterov=True)),
    "AdamW with two groups of parameters": of(s.Naive, optimizer=two_groups),
    "LRSchedulerPlugin": Case(scheduled),
    "gradients clipped by a plugin": Case(
        lambda plugins: hosted(supervised.Naive, [*plugins, ClipGradients()])
    ),
    "gradients accumulated over two batches": of(Accumulating),
    "EarlyStoppingPlugin": Case(stopping_early),
    **{
        f"plugins in the order {', '.join(order)}": Case(partial(ordered, order))
        for order in (("mist", "replay", "ewc", "clip"), ("clip", "ewc", "replay", "mist"))
    },
}
CASES = {**STRATEGIES, **MODELS, **SURROUNDINGS}


def built(case, plugins):
    """A strategy, and three experiences of two classes."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    size = 2 if case.shape[1] > 100 else 10
    host = case.build(list(plugins))
    return host, make_benchmark(N_CLASSES, 3, size, case.shape, task_labels=case.task_labels)


def trained(case, plugins):
    """The strategy after all experiences."""
    host, stream = built(case, plugins)
    if isinstance(host, supervised.JointTraining):
        host.train(stream.train_stream, eval_streams=[])
        return host
    for experience in stream.train_stream:
        host.train(experience, eval_streams=[stream.test_stream[:1]])
    return host


class Watch(MISTPlugin):
    """Counts what each step of the host changes."""

    largest = 0.0

    def before_training_exp(self, strategy, **kwargs):
        self.initial = getattr(self, "initial", None) or {
            name: p.detach().clone() for name, p in strategy.model.named_parameters()
        }
        super().before_training_exp(strategy, **kwargs)

    def after_update(self, strategy, **kwargs):
        super().after_update(strategy, **kwargs)
        self.largest = max(self.largest, self.updated_fraction)

    def after_training_exp(self, strategy, **kwargs):
        super().after_training_exp(strategy, **kwargs)
        self.largest = max(self.largest, self.updated_fraction)


REFUSED = ("ICaRL", "SCR", "PNNStrategy")
FAILING = ("GSS_greedy", "BiC", "LearningToPrompt", "LaMAML")  # in Avalanche, without the plugin


def outcome(name):
    """What happened: ``runs``, ``refused`` or ``fails in Avalanche``, and the error."""
    case = CASES[name]
    try:
        plain = trained(case, [])
    except Exception as error:
        return "fails in Avalanche", f"{type(error).__name__}: {str(error).splitlines()[0]}"
    common = {"batch_size": 8, "verbose": False, "seed": 0, **dict(case.mist)}
    whole = MISTPlugin(select_rate=1.0, drop_rate=0.0, tune_epochs=0, **common)
    try:
        same = trained(case, [whole])
    except ValueError as error:
        return "refused", str(error).replace("\n", " ")
    for (key, a), b in zip(
        plain.model.state_dict().items(), same.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), f"{name}: selecting everything changes {key}"
    mist = Watch(tune_epochs=1, lr=0.01, **common)
    host = trained(case, [mist])
    moved = 0
    for key, p in host.model.named_parameters():
        if key in mist.selection.masks:
            change = p.detach() != mist.initial[key]
            assert not change[~mist.selection.masks[key]].any(), f"{name}: {key} moved unselected"
            moved += int(change.sum())
    assert moved > 0, f"{name}: nothing moved"
    assert mist.selection.fraction <= 0.05
    kept = mist.selection.selected * (1 - mist.options.drop_rate)
    assert mist.largest * mist.selection.total <= kept + 5 * kept**0.5
    return "runs", ""


@pytest.mark.parametrize("name", CASES)
def test_runs_or_says_why_not(name):
    result, reason = outcome(name)
    refused = "refused" if name in REFUSED else "runs"
    assert result == ("fails in Avalanche" if name in FAILING else refused), reason
