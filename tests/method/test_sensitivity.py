import pytest
import torch
from torch import nn

from mist_avalanche.method.sensitivity import fisher_scores, gradient_scores


def test_equals_squared_gradients_of_a_loop_and_stores_nothing():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    batches = [(torch.randn(4, 3).double(), torch.randn(4, 2).double()) for _ in range(3)]
    parameters = dict(layer.named_parameters())
    scores = fisher_scores(lambda b: (layer(b[0]) - b[1]).square().mean(), batches, parameters)
    assert all(p.grad is None for p in layer.parameters())
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for x, y in batches:
        layer.zero_grad()
        (layer(x) - y).square().mean().backward()
        for name, p in parameters.items():
            expected[name] += p.grad**2 / 3
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name])


def test_closed_form_protection_and_unused():
    w, unused = torch.tensor([2.0, -1.0], requires_grad=True), torch.ones(3, requires_grad=True)
    protected = {"w": torch.tensor([True, False])}
    scores = fisher_scores(
        lambda x: (w * x).sum(),
        [torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])],
        {"w": w, "unused": unused},
        protected,
    )
    assert scores.keys() == {"w"}
    assert scores["w"].tolist() == [0.0, 2.5]  # mean of 1² and 2²


def test_gradient_scores_are_the_size_of_the_mean_gradient():
    w = torch.tensor([2.0, -1.0], requires_grad=True)
    batches = [torch.tensor([3.0, -1.0]), torch.tensor([-3.0, -2.0])]
    scores = gradient_scores(lambda x: (w * x).sum(), batches, {"w": w})
    assert scores["w"].tolist() == [0.0, 1.5]


def test_explains_bad_losses_and_empty_data():
    w = torch.ones(1, requires_grad=True)
    with pytest.raises(FloatingPointError, match="batch 1: the loss is nan"):
        fisher_scores(lambda x: (w * x).sum(), [1.0, float("nan")], {"w": w})
    with pytest.raises(ValueError, match="no batch"):
        fisher_scores(lambda _: w.sum(), [], {"w": w})
    other = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="nothing to tune"):
        fisher_scores(lambda _: w.sum(), [1], {"other": other})
