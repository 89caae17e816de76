import functools

import pytest
import torch
from avalanche.models import IncrementalClassifier
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.models.features import FeatureExtractor
from mist_avalanche.models.forward import Forward
from mist_avalanche.strategies import SimpleCIL

QUICK = {"tune_epochs": 2, "batch_size": 8, "lr": 0.01, "verbose": False, "seed": 0}


def tuned(benchmark, **changes):
    """A backbone tuned by the plugin, and the plugin."""
    backbone = create_backbone()
    mist = MISTPlugin(**{**QUICK, **changes})
    SimpleCIL(model=backbone, plugins=[mist], evaluator=None).train(benchmark.train_stream[0])
    return backbone, mist


def same_masks(one, other):
    masks = other.selection.masks
    return all(torch.equal(mask, masks[name]) for name, mask in one.selection.masks.items())


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 100])
def test_chunks_give_the_masks_and_weights_of_one_large_batch(benchmark_of, chunk_size):
    benchmark = benchmark_of()
    whole, mist = tuned(benchmark)
    pieces, chunked = tuned(benchmark, chunk_size=chunk_size)
    assert same_masks(mist, chunked)
    for p, q in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_only_one_chunk_of_activations_is_kept():
    backbone, x = create_backbone(), torch.rand(12, 3, 32, 32)
    saved = {}
    for chunk_size in (None, 3):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Forward("32", chunk_size)(backbone, x).sum()
        saved[chunk_size] = sum(sizes)
    assert saved[3] < saved[None] / 10


def test_bf16_gives_float32_features_near_those_of_float32(benchmark_of):
    backbone, x = create_backbone().eval(), torch.rand(6, 3, 32, 32)
    exact, rounded = (Forward(precision)(backbone, x) for precision in ("32", "bf16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.03 * float(exact.abs().max()), rtol=0)
    tuned_backbone, mist = tuned(benchmark_of(), precision="bf16")
    assert all(p.dtype == torch.float32 for p in tuned_backbone.parameters())
    assert all(score.dtype == torch.float32 for score in mist.sensitivity.values())
    assert mist.selection.fraction <= 0.05


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="precision"):
        Forward("16")
    with pytest.raises(ValueError, match="chunk_size"):
        Forward(chunk_size=0)


@pytest.fixture
def graphs(monkeypatch):
    """torch.compile without the machine code, and how many graphs it made."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="eager", dynamic=True)
    )
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_compiled_once_though_the_classifier_grows(graphs):
    model = nn.Sequential(create_backbone(), IncrementalClassifier(96))
    names = [name for name, _ in model.named_parameters()]
    forward, x = Forward("32", compile=True), torch.rand(5, 3, 32, 32)
    for n_classes in (3, 4, 9):
        model[1] = IncrementalClassifier(96, initial_out_features=n_classes)
        extract = FeatureExtractor(model, "1")
        torch.testing.assert_close(forward(extract, x), extract(x), atol=1e-5, rtol=1e-5)
    assert graphs() == 1
    assert [name for name, _ in model.named_parameters()] == names


def test_compiling_changes_neither_names_nor_masks(benchmark_of, graphs):
    benchmark = benchmark_of()
    plain, mist = tuned(benchmark)
    fast, compiled = tuned(benchmark, compile=True)
    assert graphs() >= 1
    assert compiled.selection.entries.keys() == mist.selection.entries.keys()
    assert same_masks(mist, compiled)
    for p, q in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_goes_on_with_a_warning_where_there_is_no_compiler(monkeypatch, benchmark_of):
    def compiled(module, **_):
        def run(x):
            raise RuntimeError("no C++ compiler found\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    plain, _ = tuned(benchmark_of())
    with pytest.warns(UserWarning, match="torch.compile failed.*: no C\\+\\+ compiler found$"):
        same, _ = tuned(benchmark_of(), compile=True)
    assert all(
        torch.equal(p, q) for p, q in zip(plain.parameters(), same.parameters(), strict=True)
    )


def test_timm_checkpointing_works_too(benchmark_of):
    benchmark = benchmark_of()
    whole, mist = tuned(benchmark)
    backbone = create_backbone()
    backbone.set_grad_checkpointing()
    other = MISTPlugin(**QUICK)
    SimpleCIL(model=backbone, plugins=[other], evaluator=None).train(benchmark.train_stream[0])
    assert same_masks(mist, other)
    for p, q in zip(whole.parameters(), backbone.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)
