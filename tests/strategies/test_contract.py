"""What every strategy of the package promises, whatever its method.

A strategy has a line in ``STRATEGIES``, with small settings, and one in ``STAYS`` with what a later
experience must not change.
"""

import copy
import io
from functools import cache

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from conftest import Images
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mist_avalanche import MISTPlugin, strategies
from mist_avalanche.strategies.base import arguments_of

STRATEGIES = {
    "simplecil": (strategies.SimpleCIL, {}),
    "ranpac": (strategies.RanPAC, {"n_random_features": 64}),
    "joined": (strategies.RanPAC, {"n_random_features": 64, "joined": True}),
    "l2p": (strategies.L2P, {"size": 4, "length": 2, "top_k": 2, "lr": 0.03}),
    "dualprompt": (strategies.DualPrompt, {"general_length": 2, "expert_length": 2, "lr": 0.03}),
    "codaprompt": (strategies.CODAPrompt, {"per_experience": 2, "length": 2, "lr": 0.03}),
    "aper": (strategies.APER, {"bottleneck": 4, "lr": 0.1}),
    "ssiat": (
        strategies.SSIAT,
        {"bottleneck": 4, "first_epochs": 4, "lr": 0.1, "align_lr": 0.03, "samples_per_class": 16},
    ),
    "mos": (strategies.MOS, {"bottleneck": 4, "lr": 0.2, "align_epochs": 4}),
    "slca": (
        strategies.SLCA,
        {"lr": 0.03, "backbone_lr": 1e-3, "samples_per_class": 16, "align_epochs": 2},
    ),
    "cofima": (
        strategies.CoFiMA,
        {"lr": 0.03, "backbone_lr": 1e-3, "samples_per_class": 16, "align_epochs": 2},
    ),
    "ease": (strategies.EASE, {"bottleneck": 4, "lr": 0.2}),
    "fecam": (strategies.FeCAM, {}),
}
MOVE_THE_BACKBONE = ("slca", "cofima")
# With a single class, cross-entropy over the classes of the experience is always 0: old classes
# stay known, but nothing is learned about the new one.
LEARNS_BY_CONTRAST = ("l2p", "dualprompt", "codaprompt", *MOVE_THE_BACKBONE)
N_CLASSES = 16  # that the backbone knows; streams have the first of them

# Prefixes of the model's tensors that a later experience with new classes extends but does not
# change.
EVERYTHING = ("",)
STAYS = {
    "simplecil": EVERYTHING,
    "ranpac": ("backbone.", "head.counts", "head.cross"),  # G and the solution are of all classes
    "joined": ("backbone.", "pretrained.", "head.counts", "head.cross"),
    "l2p": ("backbone.", "head."),  # experiences share the pool of prompts
    "dualprompt": ("backbone.", "head."),  # and the general prompts
    "codaprompt": EVERYTHING,
    "aper": EVERYTHING,
    "ssiat": ("backbone.",),  # the adapter trains on, and all rows are aligned
    "mos": ("backbone.", "adapters.", "head.first.", "head.own"),
    "slca": ("head.",),  # the backbone trains
    "cofima": ("head.",),
    "ease": EVERYTHING,
    "fecam": EVERYTHING,
}

NAMES = pytest.mark.parametrize("name", STRATEGIES)
MIST = pytest.mark.parametrize("mist", [False, True], ids=["plain", "mist"])


# ---- Tiny models, streams and runs --------------------------------------------------------------


def random_vit(seed=0):
    """A ViT of 3 blocks for images of 16 x 16 pixels, without a classifier."""
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VisionTransformer(**sizes, num_classes=0)


@cache
def pretrained():
    """A ViT whose features tell the classes apart; its users copy it."""
    x, y = images(stream(range(N_CLASSES), per_class=4).train_stream)
    vit = random_vit()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Linear(24, N_CLASSES)
    parameters = [*vit.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.05)
    for _ in range(100):
        nn.functional.cross_entropy(classifier(vit(x)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return vit.eval()


def make(name, *, mist=False, model=None, **changes):
    strategy, settings = STRATEGIES[name]
    plugin = MISTPlugin(
        tune_on="first", tune_epochs=2, batch_size=8, lr=0.005, seed=0, verbose=False
    )
    trains = "train_epochs" in arguments_of(strategy)
    training = {"train_epochs": 4, "train_mb_size": 8} if trains else {}
    return strategy(
        model=model or copy.deepcopy(pretrained()),
        plugins=[plugin] if mist else [],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        **{**settings, **training, **changes},
    )


def stream(*groups, per_class=8):
    """A benchmark with one experience per group of classes, each a pattern under noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(N_CLASSES, 3, 16, 16, generator=generator)

    def experience(classes):
        y = torch.tensor(classes).repeat_interleave(per_class)
        noise = torch.rand(len(y), 3, 16, 16, generator=generator)
        return as_classification_dataset(Images(0.7 * patterns[y] + 0.3 * noise, y))

    train, test = ([experience(classes) for classes in groups] for _ in range(2))
    return benchmark_from_datasets(train=train, test=test)


def train(strategy, *experiences):
    for experience in experiences:
        torch.manual_seed(7)  # whatever was drawn before
        strategy.train(experience, eval_streams=[])
    return strategy


def images(experiences):
    """Images (n, 3, 16, 16) and labels (n,)."""
    items = [(x, y) for e in experiences for x, y, *_ in e.dataset.eval()]
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


@torch.no_grad()
def logits(strategy, experiences):
    return strategy.model.eval()(images(experiences)[0])


def accuracy(strategy, experiences, classes=None):
    """Share of the images, or of those of some classes, whose label has the highest logit."""
    _, y = images(experiences)
    correct = logits(strategy, experiences).argmax(1) == y
    of_these = torch.isin(y, torch.tensor(classes if classes else y.unique().tolist()))
    return correct[of_these].double().mean().item()


def tensors(module):
    """Parameters and buffers by name, as they are now."""
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def parts(strategy):
    """A strategy and its MISTPlugins, which have states of their own."""
    return [strategy, *(p for p in strategy.plugins if isinstance(p, MISTPlugin))]


# ---- The contract -------------------------------------------------------------------------------


def test_every_strategy_is_here():
    names = {n for n in strategies.__all__ if n != "register" and not n.endswith("Strategy")}
    assert names == {strategy.__name__ for strategy, _ in STRATEGIES.values()}


@NAMES
def test_learns(name):
    benchmark = stream((0, 1), (2, 3))
    strategy = train(make(name), benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream)  # with classes to come
    train(strategy, benchmark.train_stream[1])
    assert accuracy(strategy, benchmark.test_stream) > 0.6  # chance: 0.25
    metrics = strategy.eval(benchmark.test_stream)
    (measured,) = (value for key, value in metrics.items() if "Top1_Acc_Stream" in key)
    assert measured == pytest.approx(accuracy(strategy, benchmark.test_stream))


@NAMES
def test_a_later_experience_leaves_what_is_known_of_old_classes(name):
    benchmark = stream((0, 1), (2, 3))
    strategy = make(name, **{"align_epochs": 0} if name in MOVE_THE_BACKBONE else {})
    before = tensors(train(strategy, benchmark.train_stream[0]).model)
    after = tensors(train(strategy, benchmark.train_stream[1]).model)
    for prefix in STAYS[name]:
        names = [n for n in before if n.startswith(prefix)]
        assert names, f"the model has no {prefix}"
        for n in names:
            as_large_as_before = tuple(slice(size) for size in before[n].shape)
            assert torch.equal(after[n][as_large_as_before], before[n]), f"{n} has changed"


@NAMES
def test_a_class_comes_back(name):
    benchmark = stream((0, 1), (2, 3), (1, 4))
    strategy = train(make(name), *benchmark.train_stream)
    found = logits(strategy, benchmark.test_stream)
    assert found.shape[1] == 5
    assert torch.isfinite(found).all()
    assert accuracy(strategy, benchmark.test_stream) > 0.4  # chance: 0.2
    assert accuracy(strategy, benchmark.test_stream, classes=[1]) > 0.4


@NAMES
def test_an_experience_of_a_single_class(name):
    benchmark = stream((0, 1), (2,), (3,))
    strategy = train(make(name), *benchmark.train_stream)
    assert torch.isfinite(logits(strategy, benchmark.test_stream)).all()
    if name in LEARNS_BY_CONTRAST:
        assert accuracy(strategy, benchmark.test_stream) > 0.4  # chance: 0.25
    else:
        assert accuracy(strategy, benchmark.test_stream, classes=[2, 3]) > 0.6


@NAMES
def test_logits_do_not_depend_on_the_batch(name):
    benchmark = stream((0, 1), (2, 3))
    strategy = train(make(name), *benchmark.train_stream)
    found = logits(strategy, benchmark.test_stream)
    with torch.no_grad():
        alone = [strategy.model(image[None]) for image in images(benchmark.test_stream)[0]]
    assert torch.allclose(found, torch.cat(alone), rtol=1e-5, atol=1e-5)


@NAMES
@MIST
def test_a_loaded_state_goes_on_as_if_nothing_had_happened(name, mist):
    benchmark, file = stream((0, 1), (2, 3), (1, 4)), io.BytesIO()
    whole = train(make(name, mist=mist), *benchmark.train_stream[:2])
    torch.save([part.state_dict() for part in parts(whole)], file)
    file.seek(0)
    loaded = make(name, mist=mist, model=random_vit(seed=1))  # other weights than the state's
    for part, state in zip(parts(loaded), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    for experiences in ((), benchmark.train_stream[2:]):
        found = [logits(train(s, *experiences), benchmark.test_stream) for s in (whole, loaded)]
        assert torch.equal(*found)


@NAMES
@MIST
def test_a_copy_goes_on_by_itself(name, mist):
    benchmark = stream((0, 1), (2, 3))
    test = benchmark.test_stream
    strategy = train(make(name, mist=mist), benchmark.train_stream[0])
    known, copied = logits(strategy, test), copy.deepcopy(strategy)
    assert torch.equal(logits(copied, test), known)
    train(copied, benchmark.train_stream[1])
    assert torch.equal(logits(strategy, test), known)
    train(strategy, benchmark.train_stream[1])
    assert torch.equal(logits(strategy, test), logits(copied, test))
    assert (logits(strategy, test).argmax(1) != known.argmax(1)).any()


@NAMES
def test_mist_in_front(name):
    benchmark = stream((0, 1), (2, 3))
    strategy = make(name, mist=True, **{"masks_steps": True} if name in MOVE_THE_BACKBONE else {})
    before = tensors(strategy.model.backbone)
    train(strategy, *benchmark.train_stream)
    _, mist = parts(strategy)
    assert 0 < mist.selection.fraction <= 0.05
    moved = {n: t != before[n] for n, t in tensors(strategy.model.backbone).items()}
    assert any(m.any() for m in moved.values())
    for n, m in moved.items():
        selected = mist.selection.masks.get(f"backbone.{n}", torch.zeros_like(m))
        assert not m[~selected].any(), f"{n} moved, and is not selected"
    assert accuracy(strategy, benchmark.test_stream) > 0.4  # chance: 0.25
