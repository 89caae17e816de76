import pytest
import torch

from mist_avalanche.method import tuning
from mist_avalanche.method.gradients import SelectedEntries
from mist_avalanche.method.selection import Selection
from mist_avalanche.method.sgd import ProjectionSGD, SparseSGD
from mist_avalanche.method.tuning import tune


def problem(spoilt, spoil):
    """Five steps on w and a projection, one of which is spoilt; w before every step."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 5, generator=generator).requires_grad_()
    projection = torch.randn(5, 3, generator=generator).requires_grad_()
    entries = SelectedEntries(
        {"w": w}, Selection({"w": torch.arange(30).view(6, 5) % 2 == 0}).entries
    )
    sgd = SparseSGD(
        entries,
        [projection],
        lr=0.1,
        projection_lr=0.1,
        drop_rate=0.5,
        generator=torch.Generator().manual_seed(1),
    )
    before = []

    def loss_of(batch):
        before.append((w.detach().clone(), projection.detach().clone()))
        x, i = batch
        loss = (x @ w @ projection).square().mean()
        return spoil(loss, w, projection) if i == spoilt else loss

    batches = [(torch.randn(4, 6, generator=generator), i) for i in range(5)]
    return loss_of, batches, sgd, w, projection, before


def zero_with_nan_gradient(x):
    return (0 * x).sqrt().sum()


SPOILERS = {
    "loss": lambda loss, *_: loss * float("inf"),
    "backbone": lambda loss, w, _: loss + zero_with_nan_gradient(w),
    "projection": lambda loss, _, projection: loss + zero_with_nan_gradient(projection),
}


@pytest.mark.parametrize("every", [1, 2, 4, 9])
@pytest.mark.parametrize("spoiler", SPOILERS)
def test_weights_stay_as_before_a_bad_step_whenever_it_is_seen(spoiler, every, monkeypatch):
    monkeypatch.setitem(tuning.READ_EVERY, "cpu", every)
    loss_of, batches, sgd, w, projection, before = problem(2, SPOILERS[spoiler])
    seen = []
    with pytest.raises(FloatingPointError, match="epoch 0, step 2"):
        tune(loss_of, batches, sgd, 1, total=30, progress=lambda _, value: seen.append(value))
    assert torch.equal(w.detach(), before[2][0])
    assert torch.equal(projection.detach(), before[2][1])
    assert not torch.equal(before[2][0], before[0][0])
    assert len(seen) == 2


def test_when_losses_are_read_changes_no_number(monkeypatch):
    results = []
    for every in (1, 2, 9):
        monkeypatch.setitem(tuning.READ_EVERY, "cpu", every)
        loss_of, batches, sgd, w, _, _ = problem(None, None)
        report = tune(loss_of, batches, sgd, 3, total=30)
        results.append((w.detach().clone(), report))
        assert report.steps == 15
    for w, report in results[1:]:
        assert torch.equal(w, results[0][0])
        assert report == results[0][1]


def test_the_projection_alone_trains_until_a_bad_step():
    p = torch.ones(3, requires_grad=True)
    sgd = ProjectionSGD([p], projection_lr=0.1)
    assert sgd.step([torch.ones(3)], torch.tensor(True))
    moved = p.detach().clone()
    assert not sgd.step([torch.tensor([1.0, float("inf"), 1.0])], torch.tensor(True))
    assert not sgd.step([torch.ones(3)], torch.tensor(False))
    assert torch.equal(p.detach(), moved)
    assert (moved != 1).all()
