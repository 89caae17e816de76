import pytest
import torch

from mist_avalanche.method.sparse_sgd import ReferenceSGD, SparseSGD, draw_kept


def parameters(seed=0):
    """A matrix of which some entries are selected, and a projection; both with gradients."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(6, 5, generator=generator).requires_grad_()
    projection = torch.randn(5, 3, generator=generator).requires_grad_()
    mask = torch.rand(6, 5, generator=generator) < 0.4
    for p in (w, projection):
        p.grad = torch.randn(p.shape, generator=generator)
    return w, projection, mask


def groups(w, projection, mask, scale=None):
    return [
        {"params": [w], "masks": [mask], "scales": [scale]},
        {"params": [projection], "lr": 0.2, "drop_rate": 0.0},
    ]


def test_equals_a_loop_over_entries():
    w, projection, mask = parameters()
    scale = torch.rand(6, 5)
    sgd = SparseSGD(groups(w, projection, mask, scale), 0.1, drop_rate=0.0)
    expected, velocity = w.detach().clone(), torch.zeros(6, 5)
    for _ in range(3):
        w.grad = torch.randn(6, 5)
        for i, j in mask.nonzero().tolist():
            v = 0.9 * velocity[i, j] + scale[i, j] * w.grad[i, j] + 5e-4 * expected[i, j]
            velocity[i, j], expected[i, j] = v, expected[i, j] - 0.1 * v
        sgd.step()
        torch.testing.assert_close(w.detach(), expected)
        assert int(sgd.changed) == int(mask.sum())


def test_everything_selected_and_kept_is_torch_sgd():
    w, projection, _ = parameters()
    ours = [p.detach().clone().requires_grad_() for p in (w, projection)]
    for mine, p in zip(ours, (w, projection), strict=True):
        mine.grad = p.grad.clone()
    sgd = SparseSGD(ours, 0.1, drop_rate=0.0)
    plain = torch.optim.SGD([w, projection], 0.1, momentum=0.9, weight_decay=5e-4)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in (sgd, plain)]
    for _ in range(3):
        for optimizer, scheduler in zip((sgd, plain), schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    for mine, p in zip(ours, (w, projection), strict=True):
        torch.testing.assert_close(mine, p)


def test_dropped_entries_keep_weight_and_momentum():
    w, projection, mask = parameters()
    generator = torch.Generator().manual_seed(0)
    sgd = SparseSGD(groups(w, projection, mask), 0.1, drop_rate=0.7, generator=generator)
    initial, seen = w.detach().clone(), torch.zeros_like(mask)
    for _ in range(20):
        before = w.detach().clone()
        velocity = sgd.state[w]["velocity"].clone() if sgd.state[w] else None
        sgd.step()
        moved = w.detach() != before
        assert int(sgd.changed) == int(moved.sum())
        if velocity is not None:
            still = ~moved[mask]
            assert torch.equal(sgd.state[w]["velocity"][still], velocity[still])
        seen |= moved
    assert torch.equal(w.detach()[~mask], initial[~mask])
    assert torch.equal(seen, mask)
    assert (projection.grad != 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_moves_by_a_gradient_that_is_not_finite(value):
    w, projection, mask = parameters()
    before = w.detach().clone(), projection.detach().clone()
    sgd = SparseSGD(groups(w, projection, mask), 0.1, drop_rate=0.0)
    for p in (w, projection):
        p.grad.fill_(value)
    sgd.step()
    assert torch.equal(w, before[0])
    assert torch.equal(projection, before[1])
    w.grad.fill_(1.0)
    sgd.step()
    assert torch.equal(w.detach() != before[0], mask)


def test_other_memory_layouts_and_state():
    w = torch.randn(5, 6).t().requires_grad_()  # not contiguous
    mask = torch.rand(6, 5) < 0.5
    before = w.detach().clone()
    w.grad = torch.ones(6, 5)
    sgd = SparseSGD([{"params": [w], "masks": [mask]}], 0.1, drop_rate=0.0)
    sgd.step()
    assert torch.equal(w.detach() != before, mask)
    other = SparseSGD([{"params": [w], "masks": [mask]}], 0.1, drop_rate=0.0)
    other.load_state_dict(sgd.state_dict())
    assert torch.equal(other.state[w]["velocity"], sgd.state[w]["velocity"])


def test_the_rate_of_dropping():
    kept = draw_kept(100_000, 0.9, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert kept.float().mean() == pytest.approx(0.1, abs=5 * (0.09 / 100_000) ** 0.5)
    assert draw_kept(5, 0.0, torch.device("cpu"), None).all()


def test_reference_dynamics_move_everything_and_drop_gradients():
    w, projection, mask = parameters()
    before = w.detach().clone()
    sgd = ReferenceSGD(groups(w, projection, mask), 0.1, drop_rate=0.0)
    gradient = w.grad.clone()
    sgd.step()
    assert torch.equal(w.grad, torch.where(mask, gradient, 0))
    torch.testing.assert_close(w.detach(), before - 0.1 * (w.grad + 5e-4 * before))
    assert int(sgd.changed) == w.numel()
    dropped = ReferenceSGD(groups(*parameters()), 0.1, drop_rate=0.9)
    dropped.step()
    assert (dropped.param_groups[1]["params"][0].grad == 0).any()
