import copy
import json
import random
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from conftest import Images, make_benchmark
from small_runs import accuracy, everything, same, small, state, streams
from tiny_runs import MIST as TINY_MIST
from tiny_runs import tiny_benchmark
from torch.nn import functional as F

from mist_avalanche import MISTPlugin
from mist_avalanche._support.states import tensors_of
from mist_avalanche.models import create_backbone
from mist_avalanche.runs.checkpoint import Checkpoint
from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.prediction import load_run, save_classifier
from mist_avalanche.runs.runner import run
from mist_avalanche.strategies import APER, RanPAC

KINDS = ("adapter", "ssf", "vpt_deep", "vpt_shallow", "finetune")
ADAPTERS = pytest.mark.parametrize("adapter", KINDS)
BOTH = pytest.mark.parametrize("name", ["aper", "ranpac"])
MIST = {"tune_epochs": 2, "batch_size": 8, "lr": 0.01, "verbose": False, "seed": 0}
SESSION = {"lr": 0.1, "train_epochs": 2, "train_mb_size": 6}


def quiet():
    return EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])


def make(name="aper", adapter="adapter", plugins=(), model=None, **settings):
    usual = {"model": model or small(), "plugins": list(plugins), "evaluator": quiet()}
    usual["eval_mb_size"] = 8
    own = {k: settings.pop(k) for k in [*settings] if k in SESSION or k == "bottleneck"}
    if name == "aper":
        return APER(adapter=adapter, **{**SESSION, **own, **usual, **settings})
    session = {"first_session": adapter, "first_session_args": {**SESSION, **own}}
    return RanPAC(n_random_features=30, **{**session, **usual, **settings})


def train(strategy, *experiences, **kwargs):
    for experience in experiences:
        torch.manual_seed(7)  # whatever was evaluated before
        strategy.train(experience, eval_streams=[], **kwargs)


class Watch(SupervisedPlugin):
    """What the hooks see."""

    def __init__(self):
        super().__init__()
        self.shapes, self.rates, self.hooks, self.after = [], [], [], []

    def before_training_exp(self, strategy, **kwargs):
        self.hooks.append("experience")

    def after_update(self, strategy, **kwargs):
        self.rates.append(strategy.optimizer.param_groups[0]["lr"])
        moving = [n for n, p in strategy.model.backbone.named_parameters() if p.requires_grad]
        self.after.append(len(moving))

    def after_forward(self, strategy, **kwargs):
        self.shapes.append(tuple(strategy.mb_x.shape[1:]))

    def after_training_epoch(self, strategy, **kwargs):
        self.hooks.append("epoch")

    def after_training_exp(self, strategy, **kwargs):
        assert strategy.head.seen.any()
        self.hooks.append("done")


# ---- What trains, and what stays --------------------------------------------------------------


@BOTH
@ADAPTERS
def test_the_first_experience_trains_and_no_later_one(name, adapter):
    benchmark, watch = make_benchmark(6, 3), Watch()
    strategy = make(name, adapter, [watch])
    backbone = strategy.model.backbone
    pretrained = copy.deepcopy(backbone.state_dict())
    train(strategy, benchmark.train_stream[0])
    in_place = name == "ranpac" and adapter == "finetune"
    assert same(pretrained, backbone.state_dict()) is not in_place
    assert all(p.requires_grad and p.grad is None for p in backbone.parameters())
    assert all(n == (0 if adapter != "finetune" else len(pretrained)) for n in watch.after)
    adapted = copy.deepcopy(strategy._source.state_dict())
    train(strategy, *benchmark.train_stream[1:])
    assert same(adapted, strategy._source.state_dict())
    width = 24 if name == "ranpac" else 48
    assert watch.shapes == [(3, 32, 32)] * 6 + [(width,)] * len(watch.shapes[6:])
    first = ["experience", "epoch", "epoch", "epoch", "done"]
    assert watch.hooks == first + 2 * ["experience", "epoch", "done"]
    torch.testing.assert_close(watch.rates, [0.1] * 3 + [0.05] * 3)
    assert strategy.optimizer is None
    assert accuracy(strategy, benchmark.test_stream) > 0.5


@ADAPTERS
def test_prototypes_are_means_of_both_halves_under_the_eval_transform(adapter):
    benchmark = streams([[0, 1, 2], [3], [4, 5]], noise=0.1, transform=lambda x: 1 - x)
    strategy = make("aper", adapter)
    train(strategy, *benchmark.train_stream)
    x, y = everything(benchmark.train_stream)
    model = strategy.model.eval()
    with torch.no_grad():
        adapted = model.adapter.of(model.backbone, x)
        features = torch.cat([model.backbone(x), adapted], dim=1)
        logits = model(x)
    means = torch.stack([features[y == c].double().mean(0) for c in range(6)])
    torch.testing.assert_close(strategy.head.prototypes, means, rtol=1e-5, atol=1e-6)
    cosines = F.cosine_similarity(features[:, None].double(), means[None], dim=2)
    torch.testing.assert_close(logits.double(), cosines, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[:, :24], features[:, 24:], atol=1e-4)


def test_the_session_learns():
    benchmark = streams([[0, 1, 2, 3]], noise=1.0, per_class=8)
    losses = []

    class Look(SupervisedPlugin):
        def after_update(self, strategy, **kwargs):
            losses.append(strategy.loss.item())

    strategy = make("aper", "ssf", [Look()], model=create_backbone(), train_epochs=15, lr=0.3)
    train(strategy, *benchmark.train_stream)
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


@BOTH
def test_metrics_and_evaluation_while_the_session_goes_on(name):
    benchmark = make_benchmark(4, 2, per_class=6)
    plain, looking = make(name, "ssf"), make(name, "ssf", eval_every=1)
    metrics = [*accuracy_metrics(epoch=True, stream=True), *loss_metrics(epoch=True)]
    looking.plugins.remove(looking.evaluator)
    looking.evaluator = EvaluationPlugin(metrics, loggers=[])
    looking.plugins.append(looking.evaluator)
    for experience in benchmark.train_stream:
        train(plain, experience)
        torch.manual_seed(7)
        looking.train(experience, eval_streams=[benchmark.test_stream])
    assert same(state(plain), state(looking))
    curves = looking.evaluator.get_all_metrics()
    key = next(k for k in curves if k.startswith("Top1_Acc_Epoch/train"))
    assert len(curves[key][1]) == 4  # two epochs and one, and one
    assert accuracy(plain, benchmark.test_stream) == accuracy(looking, benchmark.test_stream)


# ---- Streams ------------------------------------------------------------------------------------


@BOTH
def test_unequal_experiences_single_and_returning_classes(name):
    labels = [[5], [0, 1, 2], [5, 3], [1], [7], [0, 9], [4], [6, 8]]
    benchmark = streams(labels, noise=0.2)
    strategy = make(name)
    for t, experience in enumerate(benchmark.train_stream):
        train(strategy, experience)
        _, y = everything(benchmark.train_stream[: t + 1])
        assert strategy.head.counts.tolist() == torch.bincount(y).tolist()
    assert accuracy(strategy, benchmark.test_stream) > 0.5


@BOTH
def test_a_second_pass_over_the_first_experience_is_a_later_one(name):
    benchmark, watch = streams([[0, 1]]), Watch()
    strategy = make(name, "ssf", [watch])
    train(strategy, benchmark.train_stream[0], benchmark.train_stream[0])
    assert watch.hooks.count("epoch") == 3 + 1
    assert strategy.head.counts.tolist() == [6, 6]


@BOTH
def test_several_processes_are_refused(name, monkeypatch):
    monkeypatch.setattr("mist_avalanche._support.distributed.world_size", lambda: 2)
    strategy = make(name, "adapter")
    with pytest.raises(ValueError, match=r"first session trains in one process.*without torchrun"):
        train(strategy, make_benchmark(4, 2).train_stream[0])
    assert not strategy.adapted


def test_an_online_stream_trains_on_its_first_part():
    benchmark, watch = make_benchmark(4, 2, per_class=6), Watch()
    strategy = make("aper", "adapter", [watch])
    train(strategy, *split_online_stream(benchmark.train_stream, 4, seed=0))
    assert watch.hooks.count("epoch") == 2 + 6
    assert strategy.head.counts.tolist() == [6] * 4


@BOTH
def test_logits_do_not_depend_on_the_other_images_of_the_batch(name):
    benchmark = make_benchmark(4, 2)
    strategy = make(name, "vpt_deep", model=small().double())
    train(strategy, *benchmark_in_double(benchmark))
    x, _ = everything(benchmark.test_stream)
    strategy.model.eval()
    with torch.no_grad():
        logits = strategy.model(x.double())
        alone = torch.cat([strategy.model(image.double()[None]) for image in x])
    torch.testing.assert_close(logits, alone, rtol=1e-9, atol=1e-12)


def benchmark_in_double(benchmark):
    made = []
    for experience in benchmark.train_stream:
        x, y = everything([experience])
        made.append(as_classification_dataset(Images(x.double(), y)))
    return benchmark_from_datasets(train=made).train_stream


# ---- With MIST ------------------------------------------------------------------------------


@BOTH
@ADAPTERS
def test_mist_tunes_before_the_session_and_both_halves_have_it(name, adapter):
    benchmark, mist = make_benchmark(6, 3), MISTPlugin(**MIST)
    seen = {}

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            seen.setdefault("tuned", copy.deepcopy(strategy.model.backbone.state_dict()))
            if strategy.model.adapter is None and not strategy.adapted:
                seen["before"] = True

    strategy = make(name, adapter, [mist, Look()])
    pretrained = copy.deepcopy(strategy.model.backbone.state_dict())
    train(strategy, *benchmark.train_stream)
    assert seen["before"]
    assert all(key.startswith("backbone.") for key in mist.selection.masks)
    moved = sum(int((v != pretrained[k]).sum()) for k, v in seen["tuned"].items())
    assert 0 < moved <= 0.05 * sum(v.numel() for v in pretrained.values())
    for key, mask in mist.selection.masks.items():
        key = key.removeprefix("backbone.")
        assert torch.equal(seen["tuned"][key][~mask], pretrained[key][~mask])
    if name == "aper" or adapter != "finetune":
        assert same(seen["tuned"], strategy.model.backbone.state_dict())


def test_finetune_moves_all_unless_asked_to_mask():
    moved = {}
    for masks_steps in (False, True):
        mist = MISTPlugin(**MIST)
        strategy = make("aper", "finetune", [mist], masks_steps=masks_steps, weight_decay=0.1)
        train(strategy, *make_benchmark(4, 2).train_stream)
        tuned = dict(strategy.model.backbone.named_parameters())
        values = {k.replace("/", "."): v for k, v in strategy.model.adapter.values.items()}
        changed = {k: values[k] != p for k, p in tuned.items()}
        masks = mist.selection.masks
        rest = sum(int((c & ~masks[f"backbone.{k}"]).sum()) for k, c in changed.items())
        moved[masks_steps] = rest, sum(int(c.sum()) for c in changed.values())
    total = sum(p.numel() for p in tuned.values())
    assert moved[False][1] > 0.9 * total
    assert moved[True][0] == 0
    assert 0 < moved[True][1] < 0.05 * total


@BOTH
@pytest.mark.parametrize("adapter", ["adapter", "finetune"])
def test_mist_that_neither_selects_less_nor_tunes_changes_no_bit(name, adapter):
    idle = MISTPlugin(select_rate=1.0, drop_rate=0.0, tune_epochs=0, batch_size=8, verbose=False)
    runs = [make(name, adapter), make(name, adapter, [idle])]
    for strategy in runs:
        train(strategy, *make_benchmark(4, 2, per_class=4).train_stream)
    assert same(*map(state, runs))


@BOTH
def test_the_session_leaves_no_trace_on_streams_of_random_numbers(name):
    """But for dropout, which torch draws."""
    strategy = make(name, "ssf")
    experience = make_benchmark(2, 1).train_stream[0]
    torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    strategy.experience, strategy.dataloader = experience, None
    strategy._adapt(strategy.session, experience, [])
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def test_mist_before_every_experience():
    with pytest.raises(ValueError, match=r"Use MISTPlugin\(tune_on='first'\)"):
        make("aper", plugins=[MISTPlugin(tune_on="every")])
    assert make("ranpac").tune_on == "first"
    following = make("ranpac", plugins=[MISTPlugin(**MIST)], drift_compensation=True)
    benchmark = make_benchmark(6, 3)
    train(following, *benchmark.train_stream)
    assert following.plugins[0].method.experience == 2
    assert not following._told
    assert accuracy(following, benchmark.test_stream) > 0.3


def test_a_backbone_that_others_move_is_noticed():
    class Push(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            with torch.no_grad():
                strategy.model.backbone.pos_embed += 0.1

    strategy = make("aper", plugins=[Push()])
    benchmark = make_benchmark(4, 2)
    train(strategy, benchmark.train_stream[0])
    with pytest.warns(UserWarning, match=r"tune_on=first\)\.$"):
        train(strategy, benchmark.train_stream[1])


@pytest.mark.parametrize("drift", [False, True])
def test_ranpac_without_a_session_is_as_it_was(drift):
    """Bits of a RanPAC that knows nothing of sessions: the features of its plain backbone."""
    benchmark = make_benchmark(4, 2)
    strategy = RanPAC(
        model=small(), n_random_features=30, evaluator=quiet(), drift_compensation=drift
    )
    with pytest.warns(UserWarning, match="no effect") if drift else nullcontext():
        train(strategy, *benchmark.train_stream)
    x, y = everything(benchmark.train_stream)
    head = copy.deepcopy(strategy.head)
    other = type(head)(30, 0)
    backbone = small().eval()
    for rows in (y < 2, y >= 2):
        with torch.no_grad():
            features = backbone(x[rows])
        other.update(features, y[rows])
    assert torch.equal(head.gram, other.gram)
    assert torch.equal(head.cross, other.cross)
    assert type(strategy.model).__name__ == "BackboneWithHead"
    assert not {"adapter", "adapted"} & strategy.state_dict().keys()
    assert not hasattr(strategy, "tune_on")
    assert not hasattr(strategy, "masks_steps")


# ---- State ----------------------------------------------------------------------------------


def go_on(name, adapter, benchmark, folder, stop=None):
    strategy = make(name, adapter, [MISTPlugin(**MIST)])
    checkpoint = Checkpoint(folder, strategy, benchmark)
    assert checkpoint.unsaved == []
    found = checkpoint.load([])
    for experience in benchmark.train_stream[checkpoint.done : stop]:
        train(strategy, experience)
        found.append(accuracy(strategy, benchmark.test_stream[: checkpoint.done + 1]))
        checkpoint.save(found)
    flags = {n: p.requires_grad for n, p in strategy.model.named_parameters()}
    return state(strategy), found, flags


@BOTH
@ADAPTERS
def test_a_run_goes_on_with_the_same_bits(name, adapter, tmp_path):
    benchmark = make_benchmark(6, 3, per_class=4)
    whole, found, flags = go_on(name, adapter, benchmark, tmp_path / "whole")
    for stop in (0, 1, 2, 3):
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)
        again, found_again, flags_again = go_on(name, adapter, benchmark, tmp_path / "parts", stop)
    assert same(whole, again)
    assert (found, flags) == (found_again, flags_again)


@BOTH
def test_numbers_do_not_depend_on_workers(name):
    def noisy(x):
        return x + 0.3 * torch.rand(x.shape)

    benchmark, runs = streams([[0, 1, 2]], transform=noisy), []
    for num_workers in (0, 1, 2):
        strategy = make(name)
        train(strategy, *benchmark.train_stream, num_workers=num_workers)
        runs.append(state(strategy))
    assert same(*runs[:2])
    assert same(*runs[1:])
    other = make(name, seed=1)
    train(other, *benchmark.train_stream)
    assert not same(runs[0], state(other))


@BOTH
@pytest.mark.parametrize("adapter", ["adapter", "finetune"])
def test_a_copy_goes_its_own_way(name, adapter):
    benchmark = make_benchmark(4, 2, per_class=4)
    strategy = make(name, adapter)
    train(strategy, benchmark.train_stream[0])
    before, other = state(strategy), copy.deepcopy(strategy)
    train(other, benchmark.train_stream[1])
    assert same(before, state(strategy))
    assert other.model_to_tune.backbone is other.model.backbone


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_features_of_test_images_are_computed_once_until_the_backbone_changes(precision):
    benchmark = make_benchmark(4, 2, per_class=4)
    strategy = make("aper", precision=precision)
    train(strategy, benchmark.train_stream[0])
    counted, features = [], strategy.model.features
    strategy.model.features = lambda x: counted.append(len(x)) or features(x)
    first = accuracy(strategy, benchmark.test_stream)
    assert sum(counted) == 16
    assert accuracy(strategy, benchmark.test_stream) == first
    assert sum(counted) == 16
    with torch.no_grad():
        strategy.model.adapter.up[0].weight += 0.1
    strategy.eval(benchmark.test_stream)
    assert sum(counted) == 32
    assert strategy.head.sums.dtype == torch.float64


# ---- Runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "args"),
    [(s, {key: a}) for s, key in (("aper", "adapter"), ("ranpac", "first_session")) for a in KINDS],
)
def test_a_finished_run_predicts(strategy, args, tmp_path):
    epochs = {"train_epochs": 1}
    own = epochs if strategy == "aper" else {"first_session_args": epochs, "n_random_features": 20}
    if strategy == "ranpac" and args["first_session"] in ("ssf", "vpt_deep"):
        own["dtype"] = "float32"
    config = RunConfig(strategy=strategy, mist=True, mist_args=TINY_MIST, strategy_args=args | own)
    with tiny_benchmark():
        results = run(config, tmp_path, progress=False)
    assert 0 < results["metrics"]["A_T"] <= 100
    classifier = load_run(tmp_path)
    strategy_model = classifier.model
    x = torch.rand(2, 3, 32, 32)
    assert classifier.logits(x).shape == (2, 6)
    adapted = getattr(strategy_model, "adapter", None)
    assert (adapted is None) == (args.get("first_session") == "finetune")


def test_a_loaded_run_has_the_logits_of_the_strategy(tmp_path):
    benchmark = make_benchmark(4, 2)
    x, _ = everything(benchmark.test_stream)
    for name, adapter in (("aper", "adapter"), ("aper", "finetune"), ("ranpac", "vpt_deep")):
        strategy = make(name, adapter, [MISTPlugin(**MIST)], model=create_backbone())
        base = {k: v.clone() for k, v in tensors_of(strategy.model.backbone).items()}
        train(strategy, *benchmark.train_stream)
        folder = tmp_path / f"{name}-{adapter}"
        folder.mkdir()
        config = RunConfig(strategy=name).settings()
        assert save_classifier(strategy.model, base, folder, list("abcd"), config)
        write_results(folder, config)
        loaded, strategy.model = load_run(folder), strategy.model.eval()
        with torch.no_grad():
            assert torch.equal(loaded.logits(x), strategy.model(x))


def write_results(folder, config):
    inputs = {"image_size": 32, "normalize": "none", "mean": None, "std": None}
    (folder / "results.json").write_text(json.dumps({"config": config, "inputs": inputs}))


# ---- Arguments ------------------------------------------------------------------------------


def test_what_is_refused():
    with pytest.raises(TypeError, match="has no argument 'optimizer'"):
        make(optimizer=None)
    with pytest.raises(ValueError, match="ResNet has none"):
        make(model=timm.create_model("resnet18", num_classes=0))
    for wrong in ({"lr": 0}, {"train_epochs": 0}, {"weight_decay": -1}, {"adapter": "lora"}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            make(**wrong)
    for given, adapter in (({"bottleneck": 4}, "ssf"), ({"n_prompts": 4}, "adapter")):
        with pytest.raises(ValueError, match=f"`{next(iter(given))}` has no effect with"):
            make(adapter=adapter, **given)
    with pytest.raises(ValueError, match="`masks_steps` has no effect with 'ssf'"):
        make(adapter="ssf", masks_steps=True)
    with pytest.raises(ValueError, match="have no effect without a first session"):
        RanPAC(model=small(), first_session_args={"lr": 0.1})
    with pytest.raises(ValueError, match=r"no argument 'rate'. It has .*lr"):
        RanPAC(model=small(), first_session="ssf", first_session_args={"rate": 0.1})
    with pytest.raises(ValueError, match=r"Leave `compile` away"):
        make("ranpac", compile=True)


def test_finetune_takes_any_backbone():
    benchmark = make_benchmark(4, 2, per_class=4)
    resnet = timm.create_model("resnet10t", num_classes=0)
    strategy = make("aper", "finetune", model=resnet, train_epochs=1)
    before = {k: v.clone() for k, v in resnet.state_dict().items()}
    train(strategy, *benchmark.train_stream)
    assert same(before, resnet.state_dict())
    assert accuracy(strategy, benchmark.test_stream) > 0.3


def test_parts_that_the_user_has_frozen_stay_frozen():
    model = small()
    model.patch_embed.requires_grad_(False)
    strategy = make("aper", "finetune", model=model)
    train(strategy, make_benchmark(4, 2).train_stream[0])
    values = strategy.model.adapter.values
    for name, p in model.named_parameters():
        equal = torch.equal(values[name.replace(".", "/")], p)
        assert equal == name.startswith("patch_embed")
    assert not model.patch_embed.proj.weight.requires_grad


def test_published_defaults():
    vit = small()
    expected = {
        "adapter": (20, 0.01, 48),
        "ssf": (20, 0.01, 48),
        "vpt_deep": (5, 0.05, 16),
        "vpt_shallow": (20, 0.01, 48),
        "finetune": (5, 0.01, 128),
    }
    for adapter, values in expected.items():
        for strategy in (
            APER(model=vit, adapter=adapter, evaluator=quiet()),
            RanPAC(model=vit, first_session=adapter, evaluator=quiet()),
        ):
            s = strategy.session
            assert (s.train_epochs, s.lr, s.train_mb_size) == values
            assert (s.weight_decay, s.min_lr, s.bottleneck, s.dropout) == (5e-4, 0.0, 64, 0.1)
            assert s.n_prompts == 5
