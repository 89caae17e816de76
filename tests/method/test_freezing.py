import pytest
import torch

from mist_avalanche.method.freezing import FrozenEntries

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
}


def parameters_and_masks():
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (6, 5), "b": (5,), "t": (4, 3), "other": (7,)}
    p = {n: torch.randn(s, generator=generator).requires_grad_() for n, s in shapes.items()}
    p["t"] = torch.randn(3, 4, generator=generator).t().requires_grad_()  # not contiguous
    masks = {n: torch.rand(shapes[n], generator=generator) < 0.4 for n in ("w", "b", "t")}
    masks["b"][:] = True
    return p, masks


def frozen(p, masks, drop_rate=0.0, **changes):
    generator = torch.Generator().manual_seed(0)
    arguments = {"scales": {}, "drop_rate": drop_rate, "generator": generator, **changes}
    return FrozenEntries(p, masks, **arguments)


def unselected(p, masks):
    return {n: t.detach()[~masks[n]] if n in masks else t.detach() for n, t in p.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("drop_rate", [0.0, 0.7])
@pytest.mark.parametrize("hooks", ["step", "update"])
def test_holds_whatever_gradient_arrives(name, drop_rate, hooks):
    p, masks = parameters_and_masks()
    initial = {n: t.clone() for n, t in unselected(p, masks).items()}
    guard, optimizer = frozen(p, masks, drop_rate), OPTIMIZERS[name]([*p.values()])
    if hooks == "step":
        guard.attach(optimizer)
    for _ in range(10):
        before = {n: t.detach().clone() for n, t in p.items()}
        for t in p.values():
            t.grad = torch.randn(t.shape)  # not masked: another plugin had the last word
        if hooks == "update":
            guard.begin_update()
            optimizer.step()
            OPTIMIZERS["sgd"]([*p.values()]).step()  # a second optimizer
            guard.end_update()
        else:
            optimizer.step()
        moved = sum(int((t.detach() != before[n]).sum()) for n, t in p.items())
        assert int(guard.changed) == moved > 0
        if drop_rate:
            assert moved < sum(int(mask.sum()) for mask in masks.values())
    for n, t in unselected(p, masks).items():
        assert torch.equal(t, initial[n]), n


def test_one_draw_per_step_for_accumulated_gradients_and_one_scaling():
    p, masks = parameters_and_masks()
    guard = frozen(p, masks, 0.5, scales={"w": torch.full((6, 5), 0.5)})
    for t in p.values():
        t.grad = torch.ones(t.shape)
    guard.mask_gradients()
    kept = {n: t.grad.bool() for n, t in p.items()}
    for t in p.values():
        t.grad += 1
    guard.mask_gradients()
    guard.begin_update()
    for n, t in p.items():
        assert torch.equal(t.grad.bool(), kept[n])
    assert set(p["w"].grad.unique().tolist()) == {0.0, 1.0}
    assert set(p["b"].grad.unique().tolist()) <= {0.0, 2.0}
    with torch.no_grad():
        p["w"].add_(1.0)
    guard.end_update()
    guard.mask_gradients()
    assert not all(torch.equal(t.grad.bool(), kept[n]) for n, t in p.items())


def test_nan_in_what_is_dropped_does_not_spread():
    p, masks = parameters_and_masks()
    guard = frozen(p, masks, 0.5)
    for t in p.values():
        t.grad = torch.full(t.shape, float("nan"))
    guard.mask_gradients()
    assert (p["w"].grad[~masks["w"]] == 0).all()
    assert (p["other"].grad == 0).all()


def test_finish_puts_back_what_was_written_past_autograd():
    p, masks = parameters_and_masks()
    initial = {n: t.clone() for n, t in unselected(p, masks).items()}
    guard = frozen(p, masks)
    for t in p.values():
        t.data.add_(1.0)
    after = p["w"].detach().clone()
    guard.finish()
    for n, t in unselected(p, masks).items():
        assert torch.equal(t, initial[n]), n
    assert torch.equal(p["w"].detach()[masks["w"]], after[masks["w"]])


def test_everything_selected_changes_no_step():
    ends = []
    for guarded in (False, True):
        p, _ = parameters_and_masks()
        optimizer = OPTIMIZERS["adamw"]([*p.values()])
        guard = frozen(p, {n: torch.ones(t.shape, dtype=torch.bool) for n, t in p.items()})
        for _ in range(3):
            for t in p.values():
                t.grad = t.detach() ** 2
            if guarded:
                guard.mask_gradients()
                guard.begin_update()
            optimizer.step()
            if guarded:
                guard.end_update()
        ends.append(p)
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_without_restoring_gradients_are_masked_and_changes_counted():
    p, masks = parameters_and_masks()
    guard = frozen(p, masks, restore=False)
    optimizer = torch.optim.SGD([p["w"]], 0.1, weight_decay=0.1)
    guard.attach(optimizer)
    p["w"].grad = torch.ones(6, 5)
    guard.mask_gradients()
    assert torch.equal(p["w"].grad.bool(), masks["w"])
    optimizer.step()
    assert int(guard.changed) == 30
    guard.detach()
    optimizer.step()
    assert int(guard.changed) == 30
