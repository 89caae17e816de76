import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_avalanche.method.gradients import SelectedEntries, keep_entries, masked_gradient
from mist_avalanche.method.guard import StepGuard
from mist_avalanche.method.selection import Selection

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.1),
}


def parameters_and_masks(seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = {"w": (6, 5), "b": (5,), "t": (4, 3)}
    p = {n: torch.randn(s, generator=g).requires_grad_() for n, s in shapes.items()}
    p["t"] = torch.randn(3, 4, generator=g).t().contiguous().requires_grad_()
    masks = {n: torch.rand(s, generator=g) < 0.4 for n, s in shapes.items()}
    masks["b"][:] = True
    return p, masks


@given(seed=st.integers(0, 1000))
@settings(deadline=None)
def test_gather_and_scatter_are_indexing(seed):
    p, masks = parameters_and_masks(seed)
    entries = SelectedEntries(p, Selection(masks).entries)
    expected = torch.cat([p[n].detach()[masks[n]] for n in entries.names])
    assert torch.equal(entries.gather(entries.parameters), expected)
    before = {n: t.detach().clone() for n, t in p.items()}
    entries.scatter(expected + 1, entries.parameters)
    for n in p:
        assert torch.equal(p[n].detach(), torch.where(masks[n], before[n] + 1, before[n]))
    assert len(entries) == sum(int(m.sum()) for m in masks.values())


def test_scatter_writes_through_tensors_in_other_memory_layouts():
    p = {"w": torch.zeros(3, 4)}
    mask = torch.rand(3, 4) < 0.5
    mask[0, 0], mask[1, 1] = True, False
    entries = SelectedEntries(p, Selection({"w": mask}).entries)
    transposed = torch.zeros(4, 3).t()
    entries.scatter(torch.ones(len(entries)), [transposed])
    assert torch.equal(transposed, mask.float())


def test_keep_rate_and_nan():
    kept = keep_entries(100_000, 0.9, torch.Generator().manual_seed(0)).float().mean()
    assert kept == pytest.approx(0.1, abs=5 * (0.09 / 100_000) ** 0.5)
    assert keep_entries(5, 0.0, torch.Generator()).all()
    g = torch.tensor([float("nan"), 2.0])
    keep = torch.tensor([False, True])
    assert masked_gradient(g, keep, torch.tensor([1.0, 0.5])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("drop_rate", [0.0, 0.7])
def test_guard_holds_whatever_gradient_arrives(name, drop_rate):
    p, masks = parameters_and_masks()
    initial = {n: t.detach().clone() for n, t in p.items()}
    guard = StepGuard(
        SelectedEntries(p, Selection(masks).entries), drop_rate, torch.Generator().manual_seed(0)
    )
    optimizer = OPTIMIZERS[name](list(p.values()))
    guard.attach(optimizer)
    for _ in range(10):
        before = {n: t.detach().clone() for n, t in p.items()}
        for t in p.values():
            t.grad = torch.randn_like(t)  # not masked: another plugin had the last word
        keep = guard.keep.clone()
        optimizer.step()
        moved = torch.cat([(p[n].detach() != before[n])[masks[n]] for n in p])
        assert not (moved & ~keep).any()
        assert int(guard.changed) == int(moved.sum())
        assert moved.any()
    for n in p:
        assert torch.equal(p[n].detach()[~masks[n]], initial[n][~masks[n]])


def test_one_draw_a_step_with_accumulated_gradients():
    p, masks = parameters_and_masks()
    guard = StepGuard(
        SelectedEntries(p, Selection(masks).entries), 0.5, torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.SGD(list(p.values()), 0.1)
    guard.attach(optimizer)
    for t in p.values():
        t.grad = torch.ones_like(t)
    guard.mask_gradients()
    first = guard.keep
    guard.mask_gradients()
    assert guard.keep is first
    assert all(torch.equal(p[n].grad, p[n].grad * masks[n]) for n in p)
    optimizer.step()
    assert guard.keep is not first


def test_without_restoring_every_step_draws_and_counts_anew():
    p = torch.nn.Parameter(torch.ones(400))
    mask = torch.arange(400) < 200
    entries = SelectedEntries({"p": p}, Selection({"p": mask}).entries)
    generator = torch.Generator().manual_seed(0)
    guard = StepGuard(entries, 0.5, generator, torch.full((200,), 0.5), restore=False)
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard.attach(optimizer)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):  # accumulated: decay scales the sum once
            (p * 2).sum().backward()
            guard.mask_gradients()
        assert set(p.grad.tolist()) == {0.0, 4.0}
        before = p.detach().clone()
        optimizer.step()
        assert set((before - p).tolist()) == {0.0, 2.0}
        moved.append(before != p)
        assert guard.changed == moved[-1].sum()
    assert not torch.equal(*moved)


def test_everything_selected_changes_nothing_of_the_step():
    runs = []
    for guarded in (False, True):
        p, _ = parameters_and_masks()
        optimizer = OPTIMIZERS["adamw"](list(p.values()))
        if guarded:
            everything = {n: torch.ones_like(t, dtype=torch.bool) for n, t in p.items()}
            guard = StepGuard(
                SelectedEntries(p, Selection(everything).entries), 0.0, torch.Generator()
            )
            guard.attach(optimizer)
        for _ in range(3):
            for t in p.values():
                t.grad = t.detach() ** 2
            if guarded:
                guard.mask_gradients()
            optimizer.step()
        runs.append(p)
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


def test_detach_lets_go():
    p, masks = parameters_and_masks()
    guard = StepGuard(SelectedEntries(p, Selection(masks).entries), 0.0, torch.Generator())
    optimizer = torch.optim.SGD(list(p.values()), 0.1)
    guard.attach(optimizer)
    guard.detach()
    before = p["w"].detach().clone()
    p["w"].grad = torch.ones_like(p["w"])
    optimizer.step()
    assert (p["w"].detach() != before).all()
