import copy
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
    model = nn.Sequential(nn.Linear(8, 6), IncrementalClassifier(6))
    names = [name for name, _ in model.named_parameters()]
    forward, x = Forward(compile=True), torch.rand(5, 8)
    for n_classes in (3, 4, 9):
        model[1] = IncrementalClassifier(6, initial_out_features=n_classes)
        extract = FeatureExtractor(model, "1")
        torch.testing.assert_close(forward(extract, x), extract(x), atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert [name for name, _ in model.named_parameters()] == names
    other, copied = copy.deepcopy((model, forward))  # a copy runs its own weights
    other[0].weight.data.mul_(2)
    extract = FeatureExtractor(other, "1")
    torch.testing.assert_close(copied(extract, x), extract(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_a_backbone_that_returns_no_tensor_is_told_what_to_return(kind):
    class Wrapped(nn.Module):
        def forward(self, x):
            return {"features": x} if kind is dict else kind([x])

    with pytest.raises(TypeError, match=rf"returns a {kind.__name__}. .* features \(B, D\)"):
        Forward()(Wrapped(), torch.rand(2, 3, 4, 4))
