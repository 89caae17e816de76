import functools

import pytest
import torch
from avalanche.models import IncrementalClassifier
from torch import nn

from mist_avalanche.models import create_backbone
from mist_avalanche.models.classifier import FeatureExtractor
from mist_avalanche.models.forward import Forward


def gradients(forward, x):
    backbone = create_backbone()
    forward(backbone, x).square().sum().backward()
    return [p.grad for p in backbone.parameters()]


@pytest.mark.parametrize("chunk_size", [1, 3, 12, 100])
def test_chunks_give_the_gradients_of_one_large_batch(chunk_size):
    x = torch.rand(12, 3, 32, 32)
    for whole, pieces in zip(
        gradients(Forward(), x), gradients(Forward(chunk_size=chunk_size), x), strict=True
    ):
        torch.testing.assert_close(whole, pieces, atol=1e-4 * float(whole.abs().max()), rtol=0)


def test_only_one_chunk_of_activations_is_kept():
    backbone, x = create_backbone(), torch.rand(12, 3, 32, 32)
    saved = {}
    for chunk_size in (None, 3):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Forward(chunk_size=chunk_size)(backbone, x).sum()
        saved[chunk_size] = sum(sizes)
    assert saved[3] < saved[None] / 10


@torch.no_grad()
def test_bf16_gives_float32_features_near_those_of_float32():
    backbone, x = create_backbone().eval(), torch.rand(6, 3, 32, 32)
    exact, rounded = (Forward(precision)(backbone, x) for precision in ("32", "bf16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.03 * float(exact.abs().max()), rtol=0)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="precision"):
        Forward("16")
    with pytest.raises(ValueError, match="chunk_size"):
        Forward(chunk_size=0)


def test_compiled_once_though_the_classifier_grows(monkeypatch):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    without_machine_code = functools.partial(torch.compile, backend="eager", dynamic=True)
    monkeypatch.setattr(torch, "compile", without_machine_code)
    model = nn.Sequential(create_backbone(), IncrementalClassifier(96))
    names = [name for name, _ in model.named_parameters()]
    forward, x = Forward(compile=True), torch.rand(5, 3, 32, 32)
    for n_classes in (3, 4, 9):
        model[1] = IncrementalClassifier(96, initial_out_features=n_classes)
        extract = FeatureExtractor(model, "1")
        torch.testing.assert_close(forward(extract, x), extract(x), atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert [name for name, _ in model.named_parameters()] == names


def test_goes_on_with_a_warning_where_there_is_no_compiler(monkeypatch):
    def compiled(module, **_):
        def run(x):
            raise RuntimeError("no C++ compiler found\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    backbone, x = create_backbone().eval(), torch.rand(2, 3, 32, 32)
    forward = Forward(compile=True)
    with pytest.warns(UserWarning, match=r"torch.compile failed.*: no C\+\+ compiler found$"):
        features = forward(backbone, x)
    assert torch.equal(features, backbone(x))
    forward(backbone, x)  # a second warning would be an error
