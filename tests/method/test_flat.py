"""How many kernels a step has, and where parameters are in memory during and after it."""

import re

import pytest
import timm
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mist_avalanche.method.flat import flatten, own_memory
from mist_avalanche.method.freezing import FrozenEntries
from mist_avalanche.method.sparse_sgd import SparseSGD

NO_KERNEL = re.compile(
    "aten::(_has_compatible_shallow_copy_type|_to_copy|alias|as_strided|detach_?|empty.*|expand"
    "|flatten|lift_fresh|narrow|new_empty|reshape|resize_|resolve_.*|result_type|scalar_tensor"
    "|select|slice|split.*|squeeze|to|unsqueeze|view)"
)


def kernels(f):
    """Operations of ``f`` that compute or copy and call no other such operation.

    Views, allocations and the conversion of Python numbers, which no GPU does, are none.
    """
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        f()

    def found(event):
        inside = [name for child in event.cpu_children for name in found(child)]
        number = event.name == "aten::copy_" and event.input_shapes[0] == []
        own = event.name.startswith("aten::") and not (number or NO_KERNEL.fullmatch(event.name))
        return inside or [event.name] * own

    events = [event for event in profiler.events() if event.cpu_parent is None]
    return [name for event in events for name in found(event)]


def vit_with_gradients():
    """Tensors of a narrow ViT-B/16 and of a projection, and masks of its tensors."""
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_base_patch16_224", num_classes=0, img_size=32, embed_dim=48, num_heads=3
    )
    backbone, head = dict(vit.named_parameters()), nn.Linear(48, 128)
    for p in (*backbone.values(), *head.parameters()):
        p.grad = torch.randn(p.shape)
    assert len(backbone) == 150
    return backbone, head, {name: torch.rand(p.shape) < 0.05 for name, p in backbone.items()}


def test_a_sparse_step_has_at_most_40_kernels():
    backbone, head, masks = vit_with_gradients()
    scales = [torch.full_like(p, 0.9) for p in backbone.values()]
    groups = [
        {"params": [*backbone.values()], "masks": [*masks.values()], "scales": scales},
        {"params": [*head.parameters()], "lr": 0.01, "drop_rate": 0.0},
    ]
    sgd = SparseSGD(groups, 0.01)
    sgd.step()
    assert 10 < len(kernels(sgd.step)) <= 40


def test_masking_a_step_has_at_most_40_kernels():
    backbone, _, masks = vit_with_gradients()
    frozen = FrozenEntries(
        backbone, masks, scales=masks, drop_rate=0.9, generator=torch.Generator().manual_seed(0)
    )

    def masking():
        frozen.mask_gradients()
        frozen.begin_update()
        torch.autograd.graph.increment_version(backbone.values())  # as an optimizer does
        frozen.end_update()

    masking()
    assert 10 < len(kernels(masking)) <= 40


def assorted():
    """Parameters of many layouts, two of which share memory, and masks and scales."""
    torch.manual_seed(0)
    wide = torch.randn(6, 8)
    parameters = {
        "matrix": torch.randn(4, 8),
        "odd": torch.randn(7),
        "scalar": torch.randn(()),
        "transposed": torch.randn(3, 5).t(),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "slice": wide[:, ::2],
        "tied": torch.randn(4, 4),
        "double": torch.randn(5, dtype=torch.float64),
        "without gradient": torch.randn(16),
    }
    parameters = {name: nn.Parameter(p) for name, p in parameters.items()}
    parameters["tie"] = nn.Parameter(parameters["tied"].data.t())
    for name, p in parameters.items():
        p.grad = None if name == "without gradient" else torch.randn_like(p)
    masks = {name: torch.rand(p.shape) < 0.6 for name, p in parameters.items()}
    scales = {name: torch.rand(p.shape, dtype=p.dtype) for name, p in parameters.items()}
    masks["tie"] = ~masks["tied"].t()  # each entry of the shared memory in one of them
    return parameters, masks, scales


def memory(parameters):
    return [(p.data_ptr(), p.shape, p.stride(), p.untyped_storage().nbytes()) for p in parameters]


@pytest.mark.parametrize("stopped", [False, True])
def test_steps_follow_the_formula_and_memory_is_as_before(stopped):
    parameters, masks, scales = assorted()
    expected = {name: p.detach().clone() for name, p in parameters.items()}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    before = memory(parameters.values())
    columns = {"masks": [*masks.values()], "scales": [*scales.values()]}
    sgd = SparseSGD([{"params": [*parameters.values()], **columns}], 0.1, drop_rate=0.0)
    try:
        with own_memory(parameters.values()):
            for _ in range(3):
                sgd.step()
            assert parameters["channels last"].is_contiguous(memory_format=torch.channels_last)
            assert parameters["tie"].data_ptr() == parameters["tied"].data_ptr()
            if stopped:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert stopped
    assert memory(parameters.values()) == before
    for _ in range(3):
        for name, p in parameters.items():
            if p.grad is not None:
                v = 0.9 * velocity[name] + scales[name] * p.grad + 5e-4 * expected[name]
                velocity[name] = torch.where(masks[name], v, velocity[name])
                expected[name] -= 0.1 * torch.where(masks[name], v, 0)
    together = torch.where(masks["tied"], expected["tied"], expected["tie"].t())
    expected.update({"tied": together, "tie": together.t()})
    for name, p in parameters.items():
        torch.testing.assert_close(p.detach(), expected[name], msg=name)


def test_while_a_strategy_trains_and_after_it():
    parameters, masks, scales = assorted()
    initial = {name: p.detach().clone() for name, p in parameters.items()}
    before = memory(parameters.values())
    gradients = {name: p.grad for name, p in parameters.items()}
    strides = {name: p.grad.stride() for name, p in parameters.items() if p.grad is not None}
    expected = {
        name: None if g is None else torch.where(masks[name], g * scales[name], 0)
        for name, g in gradients.items()
    }
    frozen = FrozenEntries(
        parameters, masks, scales=scales, drop_rate=0.0, generator=torch.Generator()
    )
    optimizer = torch.optim.SGD(parameters.values(), 0.1, weight_decay=0.1)
    frozen.mask_gradients()
    frozen.begin_update()
    for name, p in parameters.items():
        assert p.grad is gradients[name]
        assert p.grad is None or torch.equal(p.grad, expected[name])
        assert p.grad is None or p.grad.stride() == strides[name]
    optimizer.step()
    frozen.end_update()
    parameters["matrix"].data = parameters["matrix"].data.clone()  # somebody moves it
    optimizer.step()
    frozen.end_update()
    frozen.finish()
    assert memory(parameters.values()) == before
    moved = 0
    for name in parameters.keys() - {"tie", "tied"}:
        change = parameters[name].detach() != initial[name]
        assert not change[~masks[name]].any(), name
        moved += int(change[masks[name]].sum())
    assert moved > 10


def test_views_are_aligned_and_by_dtype():
    parameters, _, _ = assorted()
    flats = flatten((p, None, None) for p in parameters.values())
    joined = [flat for flat in flats if len(flat.parameters) > 1]
    assert [len(flat.parameters) for flat in joined] == [4]  # matrix, odd, scalar, no gradient
    vector = joined[0].weights()
    for p in joined[0].parameters:
        assert p.data_ptr() % 64 == 0
        assert p.untyped_storage().data_ptr() == vector.data_ptr()
    assert joined[0].weights() is vector
