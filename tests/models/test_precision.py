import warnings
from types import SimpleNamespace

import pytest
import torch

from mist_avalanche.models import precision
from mist_avalanche.models.precision import autocast_of


def test_a_cpu_without_bf16_is_told(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    with (
        pytest.warns(UserWarning, match="no bf16.*--precision"),
        autocast_of("bf16", torch.ones(1)),
    ):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(("asked", "has"), [("32", False), ("bf16", True)])
def test_others_are_not(monkeypatch, asked, has):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: has)
    with warnings.catch_warnings(record=True) as said, autocast_of(asked, torch.ones(1)):
        product = torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    assert not said
    assert (product.dtype == torch.bfloat16) == (asked == "bf16")


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ({"_is_mkldnn_bf16_supported": lambda: True}, True),
        ({"_is_mkldnn_bf16_supported": lambda: False}, False),
        ({}, True),
    ],
)
def test_where_torch_cannot_tell_nobody_is_warned(monkeypatch, told, has):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**told))
    assert precision._cpu_has_bf16.__wrapped__() is has
