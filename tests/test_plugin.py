import copy
import random
import warnings

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.models import SimpleMLP, as_multitask
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import EWC, LwF, Naive, Replay
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.method.sparse_tuning import SparseTuning
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


def test_same_seed_same_numbers_whatever_the_workers(benchmark_of, small_vit):
    def noisy(x, _generator):
        return x + 0.1 * float(np.random.rand()) + 0.1 * random.random()

    runs = []
    for workers, other in ((0, 1), (2, 99)):
        torch.manual_seed(other)  # the host's streams are not the plugin's
        np.random.seed(other)
        random.seed(other)
        model = small_vit()
        mist = MISTPlugin(tune_epochs=2, batch_size=8, lr=0.01, seed=3, view=noisy, verbose=False)
        backbone = nn.Sequential(model, nn.Dropout(0.3))
        strategy = SimpleCIL(model=backbone, plugins=[mist], evaluator=None)
        strategy.train(benchmark_of().train_stream[0], num_workers=workers)
        runs.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(runs[0].values(), runs[1].values(), strict=True))


def test_when_it_scores_and_tunes(benchmark_of, small_vit, monkeypatch):
    events = []
    for step in ("score", "tune"):
        original = getattr(SparseTuning, step)

        def note(self, *args, _step=step, _original=original, **more):
            events.append((_step, self.experience))
            return _original(self, *args, **more)

        monkeypatch.setattr(SparseTuning, step, note)
    for score_on, tune_on, expected in (
        ("first", "first", [("score", 0), ("tune", 0)]),
        ("first", "every", [("score", 0), ("tune", 0), ("tune", 1)]),
        ("every", "first", [("score", 0), ("tune", 0), ("score", 1)]),
    ):
        events.clear()
        mist = MISTPlugin(
            score_on=score_on, tune_on=tune_on, tune_epochs=1, batch_size=8, verbose=False
        )
        train(benchmark_of(), small_vit(), [mist])
        assert events == expected


def test_projection_may_train_alone_first(benchmark_of):
    backbone = create_backbone()
    before = {n: p.detach().clone() for n, p in backbone.named_parameters()}
    first = None
    for epochs in (0, 12):
        mist = MISTPlugin(
            projection_epochs=epochs, tune_epochs=0, batch_size=16, seed=0, verbose=False
        )
        SimpleCIL(model=backbone, plugins=[mist], evaluator=None).train(benchmark_of().train_stream)
        weight = mist.objective.projection.weight.detach()
        assert all(torch.equal(before[n], p) for n, p in backbone.named_parameters())
        assert first is None or not torch.equal(first, weight)
        first = weight
    losses = []
    for epochs in (0, 12):
        mist = MISTPlugin(
            projection_epochs=epochs, tune_epochs=1, batch_size=16, seed=0, verbose=False
        )
        benchmark = benchmark_of(n_experiences=1)
        SimpleCIL(model=create_backbone(), plugins=[mist], evaluator=None).train(
            benchmark.train_stream
        )
        losses.append(mist.tuning_losses[0])
    assert losses[1] < losses[0]


def test_later_tunings_may_be_shorter(benchmark_of, small_vit):
    class Recorder(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            epochs.append(len(mist.tuning_losses))

    for later, expected in ((None, [3, 3]), (1, [3, 1])):
        epochs = []
        mist = MISTPlugin(tune_epochs=3, later_epochs=later, batch_size=8, verbose=False)
        train(benchmark_of(), small_vit(), [mist, Recorder()])
        assert epochs == expected


def test_overlap_decay_and_protection(benchmark_of, small_vit):
    model = small_vit()
    mist = MISTPlugin(
        score_on="every", tune_epochs=1, batch_size=8, lr=0.01, protect_rate=0.001, verbose=False
    )
    host = train(benchmark_of(n_experiences=1), model, [mist])
    first = mist.selection
    protected = {n: m.clone() for n, m in mist.history.protected.items()}
    assert protected
    assert not protected.keys() & first.always
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    host.train(benchmark_of(n_experiences=1, seed=5).train_stream[0], eval_streams=[])
    parameters = dict(model.named_parameters())
    for name, mask in protected.items():
        assert mask.any()
        assert torch.equal(parameters[name].detach()[mask], before[name][mask])
        assert (mist.sensitivity[name][mask] == 0).all()
        assert torch.equal(mist.history.overlap[name].bool(), first.masks[name])
    assert not mist.history.overlap.keys() & first.always


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


@pytest.mark.filterwarnings("ignore:The backbone has moved")
def test_cross_entropy_objective_lowers_its_loss(benchmark_of):
    mist = MISTPlugin(
        objective="cross_entropy", tune_epochs=8, lr=1e-2, batch_size=16, seed=0, verbose=False
    )
    strategy = SimpleCIL(model=create_backbone(), plugins=[mist], evaluator=None)
    classifiers = []
    for experience in benchmark_of(n_classes=6, n_experiences=2).train_stream:
        strategy.train(experience)
        classifiers.append(mist.objective.classifier)
        assert mist.tuning_losses[-1] < mist.tuning_losses[0] < 1.5
    assert classifiers[0] is not classifiers[1]
    assert classifiers[1].weight.shape == (3, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select_rate": 0}, r"`select_rate` in \(0, 1\], got 0"),
        ({"select_rate": 1.5}, r"`select_rate` in \(0, 1\], got 1.5"),
        ({"drop_rate": 1.0}, r"`drop_rate` in \[0, 1\), got 1.0"),
        ({"drop_rate": float("nan")}, "`drop_rate`"),
        ({"drop_rate": "much"}, "got 'much'"),
        ({"ranking": "layer"}, "`ranking` to be 'per_tensor' or 'global'"),
        ({"tune_epochs": -1}, "`tune_epochs` of at least 0, got -1"),
        ({"tune_epochs": 2.5}, "`tune_epochs`.*got 2.5"),
        ({"batch_size": 1}, "`batch_size` of at least 2"),
        ({"score_on": "last"}, "`score_on` to be 'first' or 'every', got 'last'"),
        ({"tune_on": "never"}, "`tune_on`"),
        ({"dynamics": "dense"}, "`dynamics`"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"lr": -1}, "`lr`"),
        ({"overlap_decay": 0}, "`overlap_decay`"),
        ({"protect_rate": 1}, "`protect_rate`"),
    ],
)
def test_explains_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MISTPlugin(**arguments)


def test_explains_models_and_experiences_it_cannot_tune(benchmark_of, small_vit):
    quick = {"tune_epochs": 1, "batch_size": 8, "verbose": False}
    frozen = small_vit().requires_grad_(False)
    frozen.head.requires_grad_(True)
    with pytest.raises(ValueError, match=r"nothing to tune.*requires_grad_"):
        train(benchmark_of(), frozen, [MISTPlugin(**quick)])
    with pytest.raises(ValueError, match="1 image"):
        train(benchmark_of(2, 2, per_class=1), small_vit(), [MISTPlugin(**quick)])
    with pytest.raises(ValueError, match="class 0 only"):
        train(benchmark_of(2, 2), small_vit(), [MISTPlugin(**quick)])
    multi = as_multitask(SimpleMLP(input_size=3 * 32 * 32), "classifier")
    with pytest.raises(ValueError, match="multi-task"):
        train(benchmark_of(), multi, [MISTPlugin(**quick)])


@pytest.mark.parametrize("score_first", [True, False])
def test_stops_at_nan_with_the_weights_as_they_were(benchmark_of, small_vit, score_first):
    model = small_vit()
    calls, before = 0, {}

    def view(x, generator):
        nonlocal calls
        calls += 1
        before.update({n: p.detach().clone() for n, p in model.named_parameters()})
        return x * float("nan") if calls > (1 if score_first else 5) else x.flip(-1)

    mist = MISTPlugin(tune_epochs=4, batch_size=8, lr=0.01, view=view, verbose=False)
    place = "score pass" if score_first else "before experience 0.*epoch 1, step 1"
    with pytest.raises(FloatingPointError, match=place):
        train(benchmark_of(n_classes=4, n_experiences=2, per_class=8), model, [mist])
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


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
    with pytest.raises(KeyboardInterrupt):
        strategy.train(experience)
    strategy.train(experience)
    assert calls == 4 + 2 * 2  # two epochs of two batches
    strategy.train(experience)
    assert calls == 4 + 2 * 2


def test_a_backbone_that_has_changed_is_refused(benchmark_of, small_vit):
    model = small_vit()
    mist = MISTPlugin(tune_epochs=0, batch_size=8, verbose=False)
    stream = benchmark_of().train_stream
    strategy = SimpleCIL(model=model, plugins=[mist], evaluator=None)
    strategy.train(stream[0])
    model.blocks[0].extra = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"blocks.0.extra.*score_on='every'"):
        strategy.train(stream[1])


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
    with pytest.warns(UserWarning, match=r"blocks.0.mlp.fc1.weight was not scored"):
        strategy.train(stream[1])
    assert torch.equal(layer, before)


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("hook", ["before_training", "before_training_exp", "after_eval"])
def test_what_moves_between_experiences_is_put_back(benchmark_of, small_vit, hook, evaluate):
    model = small_vit()
    mist = MISTPlugin(tune_epochs=1, batch_size=8, lr=0.01, verbose=False)
    shrink, calls = SupervisedPlugin(), []

    def decay(strategy, **kwargs):
        calls.append(strategy.clock.train_exp_counter)
        if mist.selection is not None:
            with torch.no_grad():
                torch._foreach_mul_(list(model.parameters()), 0.99)

    setattr(shrink, hook, decay)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        plugins=[shrink, mist],
        evaluator=None,
    )
    benchmark = benchmark_of()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for experience in benchmark.train_stream:
            strategy.train(experience)
            if evaluate:
                strategy.eval(benchmark.test_stream[:1])
    said = [w for w in told if "was put back" in str(w.message)]
    assert len(said) == (hook != "after_eval" or evaluate)
    mask = mist.selection.masks
    if hook != "after_eval":  # what moved after the last experience is the user's
        for name, p in model.named_parameters():
            if name in mask:
                assert torch.equal(p[~mask[name]], before[name][~mask[name]]), name
    assert calls or not evaluate


def test_after_the_training_the_model_is_the_user_s(benchmark_of, small_vit):
    model = small_vit()
    mist = MISTPlugin(tune_epochs=1, batch_size=8, verbose=False)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        plugins=[mist],
        evaluator=None,
    )
    benchmark = benchmark_of()
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream[:1])
    other = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    model.load_state_dict(other)
    strategy.eval(benchmark.test_stream[:1])
    assert all(torch.equal(p, other[name]) for name, p in model.named_parameters())


def test_stops_at_nan_in_the_host_loss(benchmark_of, small_vit):
    model = small_vit()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}

    class Spoil(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            strategy.loss = strategy.loss * float("nan")

    mist = MISTPlugin(tune_epochs=0, batch_size=8, verbose=False)
    with pytest.raises(FloatingPointError, match="experience 0, epoch 0, step 0"):
        train(benchmark_of(), model, [Spoil(), mist])
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


class Recorder(BaseLogger):
    def __init__(self):
        super().__init__()
        self.seen = []

    def log_single_metric(self, name, value, x_plot):
        self.seen.append((name, x_plot, value))


@pytest.mark.filterwarnings("ignore:The backbone has moved")
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
        ("MIST/tuning_loss", 1),
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


def tensors_of(thing, seen):
    """Every tensor that an object holds, whatever it is kept in."""
    if id(thing) in seen or isinstance(thing, (type, str, torch.nn.Module)):
        return
    seen[id(thing)] = thing
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_of(value, seen)
    elif isinstance(thing, (list, tuple, set)):
        for value in thing:
            yield from tensors_of(value, seen)
    elif type(thing).__module__.startswith("mist_avalanche"):
        yield from tensors_of(vars(thing), seen)


def test_state_stays_below_one_and_a_quarter_backbones(benchmark_of, small_vit):
    model, largest = small_vit(), 0
    own = {p.data_ptr() for p in model.parameters()}
    backbone = sum(p.numel() * p.element_size() for n, p in model.named_parameters())

    class Weigh(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            nonlocal largest
            held = [t for t in tensors_of(mist, {}) if t.data_ptr() not in own]
            largest = max(largest, sum(t.numel() * t.element_size() for t in held))

    mist = MISTPlugin(
        score_on="every",
        tune_epochs=1,
        batch_size=8,
        protect_rate=0.001,
        keep_scores=False,
        verbose=False,
    )
    benchmark = benchmark_of(n_classes=4, n_experiences=2)
    train(benchmark, model, [mist, Weigh()], optimizer="adamw")
    assert mist.history.overlap
    assert mist.history.protected
    assert not mist.sensitivity
    assert 1.0 * backbone < largest < 1.25 * backbone + 2 * 96 * 128 * 4  # and the projection


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
