import copy
import inspect
import random
from dataclasses import fields

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.models import SimpleMLP, as_multitask
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import EWC, LwF, Naive, Replay
from conftest import brightened
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.method.options import MISTOptions
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import SimpleCIL

STRATEGIES = {
    "naive": (Naive, {}),
    "replay": (Replay, {"mem_size": 8}),
    "ewc": (EWC, {"ewc_lambda": 1.0}),
    "lwf": (LwF, {"alpha": 1.0, "temperature": 2.0}),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def train(benchmark, model, plugins=(), strategy="naive", optimizer="sgd", seed=0, **train_args):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    make, settings = STRATEGIES[strategy]
    host = make(
        model=model,
        optimizer=OPTIMIZERS[optimizer](model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=1,
        plugins=list(plugins),
        evaluator=None,
        **settings,
    )
    for experience in benchmark.train_stream:
        host.train(experience, eval_streams=[], **train_args)
    return host


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_invariant_1_everything_selected_is_the_run_without_the_plugin(
    strategy, optimizer, benchmark_of, small_vit
):
    plain, with_mist = small_vit(), small_vit()
    train(benchmark_of(), plain, [], strategy, optimizer)
    mist = MISTPlugin(select_rate=1.0, drop_rate=0.0, tune_epochs=0, batch_size=8, verbose=False)
    train(benchmark_of(), with_mist, [mist], strategy, optimizer)
    for (name, a), b in zip(
        plain.state_dict().items(), with_mist.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


class Shaker(SupervisedPlugin):
    """Writes its own gradients after everybody else, as A-GEM does."""

    def before_update(self, strategy, **kwargs):
        for p in strategy.model.parameters():
            p.grad = torch.ones_like(p)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_invariant_2_unselected_entries_stay(strategy, optimizer, benchmark_of, small_vit):
    model = small_vit()
    initial = {n: p.detach().clone() for n, p in model.named_parameters()}
    mist = MISTPlugin(tune_epochs=1, batch_size=8, lr=0.01, verbose=False)
    plugins = [mist, Shaker()] if strategy != "lwf" else [Shaker(), mist]
    train(benchmark_of(), model, plugins, strategy, optimizer)
    moved = 0
    for name, p in model.named_parameters():
        if name.startswith("head."):
            continue
        mask = mist.selection.masks[name]
        assert torch.equal(p.detach()[~mask], initial[name][~mask]), name
        moved += int((p.detach() != initial[name]).sum())
    assert moved > 0
    assert 0 < mist.selection.fraction <= 0.05


class Lookahead:
    """An optimizer that is not torch's, and so calls no step hooks."""

    def __init__(self, base):
        self.base, self.defaults, self.state = base, base.defaults, base.state
        self.param_groups = base.param_groups
        self.slow = [p.detach().clone() for g in base.param_groups for p in g["params"]]

    def zero_grad(self):
        self.base.zero_grad()

    def step(self):
        self.base.step()
        with torch.no_grad():
            for slow, p in zip(
                self.slow, (p for g in self.param_groups for p in g["params"]), strict=True
            ):
                slow.lerp_(p, 0.5)
                p.copy_(slow + 1e-3)


def test_invariant_2_for_an_optimizer_without_hooks(benchmark_of, small_vit):
    model = small_vit()
    initial = {n: p.detach().clone() for n, p in model.named_parameters()}
    mist = MISTPlugin(tune_epochs=0, batch_size=8, verbose=False)

    class Exchange(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            if not isinstance(strategy.optimizer, Lookahead):
                strategy.optimizer = Lookahead(strategy.optimizer)

    train(benchmark_of(n_experiences=1), model, [mist, Exchange()])
    changed = 0
    for name, mask in mist.selection.masks.items():
        p = dict(model.named_parameters())[name].detach()
        assert torch.equal(p[~mask], initial[name][~mask]), name
        changed += int((p != initial[name]).sum())
    assert changed


def state_of(strategy):
    return {
        "weights": copy.deepcopy(strategy.model.state_dict()),
        "modes": [m.training for m in strategy.model.modules()],
        "grads": [p.grad for p in strategy.model.parameters()],
        "optimizer": copy.deepcopy(strategy.optimizer.state_dict()),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
    }


def test_invariant_3_scoring_has_no_side_effect(benchmark_of):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    model[3].eval()
    states = []

    class Before(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            states.append(state_of(strategy))

    mist = MISTPlugin(tune_epochs=0, batch_size=6, verbose=False)
    train(benchmark_of(), model, [Before(), mist, Before()])
    before, after = states[0], states[1]
    for name, value in before["weights"].items():
        assert torch.equal(value, after["weights"][name]), name
    assert torch.equal(before["torch"], after["torch"])
    for key in ("modes", "python", "numpy"):
        assert before[key] == after[key], key
    assert str(before["optimizer"]) == str(after["optimizer"])
    assert all(g is None for g in after["grads"])


def test_invariant_4_at_the_defaults(benchmark_of):
    backbone = create_backbone()
    initial = {n: p.detach().clone() for n, p in backbone.named_parameters()}
    fractions = []

    class Watch(MISTPlugin):
        def after_update(self, strategy, **kwargs):
            super().after_update(strategy, **kwargs)
            fractions.append(self.updated_fraction)

    mist = Watch(tune_epochs=2, batch_size=16, lr=0.01, verbose=False)
    strategy = SimpleCIL(model=backbone, plugins=[mist], evaluator=None)
    strategy.train(benchmark_of().train_stream[0])
    n = mist.selection.total
    k = mist.selection.selected
    assert k <= 0.05 * n
    # Binomial: K entries, each kept with probability 0.1; five standard deviations.
    bound = (0.1 * k + 5 * (0.09 * k) ** 0.5) / n
    assert bound < 0.0055
    assert 0 < mist.updated_fraction <= bound
    changed = sum(int((p.detach() != initial[m]).sum()) for m, p in backbone.named_parameters())
    assert 0 < changed <= k

    model = nn.Sequential(create_backbone(), nn.Linear(96, 4))
    host = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1, 0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4, plugins=[Watch(tune_epochs=0, batch_size=16, verbose=False)],
        evaluator=None,
    )  # fmt: skip
    fractions.clear()
    host.train(benchmark_of().train_stream[0], eval_streams=[])
    assert fractions
    assert all(0 < f <= bound for f in fractions)


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_numbers(benchmark_of, small_vit, workers):
    """The host's random streams and the plugin's do not touch each other."""
    ends = []
    for other in (1, 99):
        torch.manual_seed(other)
        np.random.seed(other)
        random.seed(other)
        model = small_vit()
        mist = MISTPlugin(tune_epochs=2, batch_size=8, lr=0.01, seed=3, verbose=False)
        backbone = nn.Sequential(model, nn.Dropout(0.3))
        strategy = SimpleCIL(model=backbone, plugins=[mist], evaluator=None)
        benchmark = benchmark_of(train_transform=brightened)
        strategy.train(benchmark.train_stream[0], num_workers=workers)
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(e.values() for e in ends), strict=True))


@pytest.mark.parametrize(
    ("score_on", "tune_on", "later", "scored", "tuned"),
    [
        ("first", "first", None, 1, [2]),
        ("first", "every", None, 1, [2, 2]),
        ("first", "every", 1, 1, [2, 1]),
        ("first", "every", 0, 1, [2]),
        ("every", "first", None, 2, [2]),
    ],
)
def test_when_it_scores_and_tunes(benchmark_of, small_vit, score_on, tune_on, later, scored, tuned):
    when = {"score_on": score_on, "tune_on": tune_on, "later_epochs": later}
    mist = MISTPlugin(**when, tune_epochs=2, batch_size=8, verbose=False)
    train(benchmark_of(), small_vit(), [mist])
    assert 1 + len(mist.overlaps) == scored
    assert [len(losses) for losses in mist.losses] == tuned


def test_overlap_decay_and_protection(benchmark_of, small_vit):
    model = small_vit()
    mist = MISTPlugin(
        score_on="every", tune_epochs=1, batch_size=8, lr=0.01, protect_rate=0.001, verbose=False
    )
    host = train(benchmark_of(n_experiences=1), model, [mist])
    first = mist.selection
    protected = {n: m.clone() for n, m in mist.method.history.protected.items()}
    assert protected
    assert not protected.keys() & first.always
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    host.train(benchmark_of(n_experiences=1, seed=5).train_stream[0], eval_streams=[])
    parameters = dict(model.named_parameters())
    for name, mask in protected.items():
        assert mask.any()
        assert torch.equal(parameters[name].detach()[mask], before[name][mask])
        assert (mist.sensitivity[name][mask] == 0).all()
        assert torch.equal(mist.method.history.counts[name].bool(), first.masks[name])
    assert not mist.method.history.counts.keys() & first.always


def test_reference_dynamics_move_everything(benchmark_of):
    backbone = create_backbone()
    initial = {n: p.detach().clone() for n, p in backbone.named_parameters()}
    mist = MISTPlugin(dynamics="reference", tune_epochs=5, batch_size=8, lr=0.1, verbose=False)
    SimpleCIL(model=backbone, plugins=[mist], evaluator=None).train(benchmark_of().train_stream[0])
    changed = sum(int((p.detach() != initial[n]).sum()) for n, p in backbone.named_parameters())
    assert changed / mist.selection.total > 0.5


def test_selections_by_other_scores(benchmark_of, small_vit):
    chosen = {}
    for by in ("mi", "gradient", "magnitude", "random"):
        mist = MISTPlugin(select_by=by, tune_epochs=0, batch_size=8, verbose=False)
        model = small_vit()
        name = "blocks.0.mlp.fc1.weight"
        weight = model.get_parameter(name).detach().abs()
        train(benchmark_of(n_experiences=1), model, [mist])
        chosen[by] = mist.selection.masks[name]
        if by == "magnitude":
            assert weight[chosen[by]].min() >= weight[~chosen[by]].max()
        if by == "gradient":
            scores = mist.sensitivity[name]
            assert scores[chosen[by]].min() >= scores[~chosen[by]].max()
    counts = {int(mask.sum()) for mask in chosen.values()}
    assert len(counts) == 1
    masks = list(chosen.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


@pytest.mark.filterwarnings("ignore:The backbone")
def test_cross_entropy_objective_lowers_its_loss(benchmark_of):
    mist = MISTPlugin(
        objective="cross_entropy", tune_epochs=8, lr=1e-2, batch_size=16, seed=0, verbose=False
    )
    strategy = SimpleCIL(model=create_backbone(), plugins=[mist], evaluator=None)
    classifiers = []
    for experience in benchmark_of(n_classes=6, n_experiences=2).train_stream:
        strategy.train(experience)
        classifiers.append(mist.method.objective.head)
        assert mist.losses[-1][-1] < mist.losses[-1][0] < 1.7
    assert classifiers[0] is not classifiers[1]
    assert classifiers[1].weight.shape == (3, 96)


def test_explains_wrong_arguments():
    with pytest.raises(ValueError, match=r"`select_rate` in \(0, 1\], got 1.5"):
        MISTPlugin(select_rate=1.5)
    with pytest.raises(TypeError, match="selct_rate"):
        MISTPlugin(selct_rate=0.1)


def test_explains_models_and_experiences_it_cannot_tune(benchmark_of, small_vit):
    quick = {"tune_epochs": 1, "batch_size": 8, "verbose": False}
    frozen = small_vit().requires_grad_(False)
    frozen.head.requires_grad_(True)
    with pytest.raises(ValueError, match=r"nothing to tune.*requires_grad_"):
        train(benchmark_of(), frozen, [MISTPlugin(**quick)])
    with pytest.raises(ValueError, match="1 image"):
        train(benchmark_of(2, 2, per_class=1), small_vit(), [MISTPlugin(**quick)])
    with pytest.raises(ValueError, match=r"8 image\(s\) of 1 class"):
        train(benchmark_of(2, 2), small_vit(), [MISTPlugin(**quick)])
    multi = as_multitask(SimpleMLP(input_size=3 * 32 * 32), "classifier")
    with pytest.raises(ValueError, match="multi-task"):
        train(benchmark_of(), multi, [MISTPlugin(**quick)])


def test_an_interrupted_tuning_is_made_up_for(benchmark_of, small_vit):
    model, calls = small_vit(), 0

    def view(x, generator):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return x.flip(-1)

    mist = MISTPlugin(tune_on="first", tune_epochs=2, batch_size=8, view=view, verbose=False)
    strategy = SimpleCIL(model=model, plugins=[mist], evaluator=None)
    experience = benchmark_of().train_stream[0]
    addresses = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        strategy.train(experience)
    assert [p.data_ptr() for p in model.parameters()] == addresses
    strategy.train(experience)
    assert calls == 4 + 2 * 2  # two epochs of two batches
    strategy.train(experience)
    assert calls == 4 + 2 * 2


class Interrupt(SupervisedPlugin):
    """Stops the first training after its first step."""

    stopped = False

    def after_update(self, strategy, **kwargs):
        if not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt


def test_an_interrupted_strategy_trains_again(benchmark_of, small_vit):
    model = small_vit()
    initial = {n: p.detach().clone() for n, p in model.named_parameters()}
    addresses = [p.data_ptr() for p in model.parameters()]
    mist = MISTPlugin(tune_epochs=0, batch_size=8, verbose=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    strategy = Naive(model=model, optimizer=optimizer, plugins=[mist, Interrupt()], evaluator=None)
    experience = benchmark_of().train_stream[0]
    with pytest.raises(KeyboardInterrupt):
        strategy.train(experience)
    strategy.train(experience)
    assert [p.data_ptr() for p in model.parameters()] == addresses
    for name, mask in mist.selection.masks.items():
        p = model.get_parameter(name).detach()
        assert torch.equal(p[~mask], initial[name][~mask]), name


def test_what_is_unfrozen_between_experiences_was_not_scored_and_stays(benchmark_of, small_vit):
    model = small_vit()
    layer = model.blocks[0].mlp.fc1.weight.requires_grad_(False)
    before = layer.detach().clone()
    mist = MISTPlugin(tune_epochs=1, batch_size=8, lr=0.01, verbose=False)
    stream = benchmark_of().train_stream
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    strategy = Naive(model=model, optimizer=optimizer, plugins=[mist], evaluator=None)
    strategy.train(stream[0])
    layer.requires_grad_(True)
    strategy.train(stream[1])
    assert torch.equal(layer, before)


def test_a_layer_unfrozen_while_training_stays(benchmark_of, small_vit):
    model = small_vit()
    layer = model.blocks[0].mlp.fc1.weight.requires_grad_(False)
    before = layer.detach().clone()

    class Unfreeze(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            layer.requires_grad_(True)

    mist = MISTPlugin(tune_epochs=0, batch_size=8, verbose=False)
    train(benchmark_of(), model, [Unfreeze(), mist])
    assert torch.equal(layer, before)
    assert layer.requires_grad


def test_a_plugin_belongs_to_one_strategy(benchmark_of, small_vit):
    mist = MISTPlugin(tune_epochs=0, batch_size=8, verbose=False)
    host = train(benchmark_of(n_experiences=1), small_vit(), [mist])
    copy.deepcopy(host).train(benchmark_of(n_experiences=1).train_stream)  # goes on with its copy
    with pytest.raises(ValueError, match="another strategy"):
        train(benchmark_of(), small_vit(), [mist])


@pytest.mark.filterwarnings("ignore:The backbone")
def test_state_goes_on_in_another_plugin(benchmark_of, small_vit):
    stream = benchmark_of(6, 3).train_stream
    options = {"score_on": "every", "tune_epochs": 1, "batch_size": 8, "protect_rate": 0.001}
    made = [MISTPlugin(**options, lr=0.01, seed=0, verbose=False) for _ in range(2)]
    first = SimpleCIL(model=small_vit(), plugins=[made[0]], evaluator=None)
    for experience in stream[:2]:
        first.train(experience)
    other = SimpleCIL(model=copy.deepcopy(first.model.backbone), plugins=[made[1]], evaluator=None)
    made[1].load_state_dict(copy.deepcopy(made[0].state_dict()))
    for strategy in (first, other):
        strategy.train(stream[2])
    pairs = zip(first.model.backbone.parameters(), other.model.backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_arguments_are_the_method_s_options():
    parameters = inspect.signature(MISTPlugin).parameters
    assert {n: p.default for n, p in parameters.items()} == {
        field.name: field.default for field in fields(MISTOptions)
    }
    assert all(f"        {name}: " in MISTPlugin.__doc__ for name in parameters)


class Recorder(BaseLogger):
    def __init__(self):
        super().__init__()
        self.seen = []

    def log_single_metric(self, name, value, x_plot):
        self.seen.append((name, x_plot, value))


@pytest.mark.filterwarnings("ignore:The backbone")
def test_loggers_receive_loss_and_fractions(benchmark_of):
    recorder = Recorder()
    strategy = SimpleCIL(
        model=create_backbone(),
        plugins=[MISTPlugin(tune_epochs=1, batch_size=8, verbose=False)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[recorder]),
    )
    for experience in benchmark_of().train_stream:
        strategy.train(experience)
    names = [(name, x) for name, x, _ in recorder.seen if name.startswith("MIST/")]
    assert sorted(names) == [
        ("MIST/selected_fraction", 0),
        ("MIST/tuning_loss", 0),
        ("MIST/tuning_loss", 1),  # after one iteration of 16 images
        ("MIST/updated_fraction", 0),
        ("MIST/updated_fraction", 1),
    ]
    assert all(np.isfinite(value) for _, _, value in recorder.seen)


def test_for_backbone_takes_its_defaults():
    assert MISTPlugin.for_backbone("embedded").options.tune_on == "first"
    assert MISTPlugin.for_backbone("embedded", tune_on="every").options.tune_on == "every"
    assert MISTPlugin.for_backbone("embedded", drift_compensation=True).options.tune_on == "every"
    assert MISTPlugin.for_backbone("vit_base_patch16_224").options == MISTPlugin().options
    with pytest.raises(ValueError, match="Unknown backbone 'deit_tiny_patch16_22'"):
        MISTPlugin.for_backbone("deit_tiny_patch16_22")


def test_a_model_that_is_compiled_whole(benchmark_of, small_vit):
    """The compiled model and the plain one end with the same bits: MIST runs what is inside."""
    ends = []
    for whole in (False, True):
        plain = small_vit()
        model = torch.compile(plain, backend="eager") if whole else plain
        mist = MISTPlugin(tune_epochs=1, batch_size=8, lr=0.01, seed=0, verbose=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        strategy = Naive(model=model, optimizer=optimizer, plugins=[mist], evaluator=None)
        torch.manual_seed(0)
        strategy.train(benchmark_of().train_stream)
        ends.append([*plain.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*ends, strict=True))
