"""Algorithm 1 without Avalanche, on a plain module and a plain dataset."""

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mist_avalanche.method import MIST, MISTOptions
from mist_avalanche.models.classifier import FeatureExtractor

CPU = torch.device("cpu")


def problem():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))
    y = torch.arange(3).repeat_interleave(8)
    x = torch.rand(3, 3, 4, 4, generator=generator)[y]
    x = x + 0.3 * torch.rand(x.shape, generator=generator)
    return FeatureExtractor(model, "3"), TensorDataset(x, y)


def run(mist, extract, dataset, experience=0, **changes):
    mist.experience = experience
    settings = {"score": True, "epochs": 4, **changes}
    mist.run(extract, dataset, [0, 1, 2], CPU, **settings)


def made(**options):
    return MIST(
        MISTOptions(**{"batch_size": 8, "lr": 0.05, "seed": 0, "verbose": False, **options})
    )


def test_scores_selects_and_tunes():
    extract, dataset = problem()
    before = {n: p.detach().clone() for n, p in extract.model.named_parameters()}
    mist, random = made(), torch.get_rng_state()
    run(mist, extract, dataset, epochs=30)
    assert torch.equal(torch.get_rng_state(), random)
    assert mist.selection.masks.keys() == {"1.weight", "1.bias"}
    assert 0 < mist.selection.fraction <= 0.05
    assert 0 < mist.updated_fraction <= mist.selection.fraction
    for name, p in extract.model.named_parameters():
        mask = mist.selection.masks.get(name, torch.zeros_like(p, dtype=torch.bool))
        assert torch.equal(p.detach()[~mask], before[name][~mask]), name
        assert p.grad is None
    assert len(mist.losses) == 1
    assert mist.losses[0][-1] < mist.losses[0][0]


def test_dense_tuning_is_torch_sgd_on_the_same_batches():
    """With everything selected and kept, each step is plain SGD on the objective."""
    extract, dataset = problem()
    other, _ = problem()
    mist = made(select_rate=1.0, drop_rate=0.0, view=lambda x, _generator: x.flip(-1))
    seen = []
    loss_of = mist.objective.info_nce.forward

    def note(z, labels):
        seen.append(labels)
        return loss_of(z, labels)

    mist.objective.info_nce.forward = note
    run(mist, extract, dataset, epochs=1)
    y = dataset.tensors[1]
    batches = seen[3:]  # three of the score pass come before
    assert torch.equal(torch.cat(batches).sort().values, y)
    again = made(select_rate=1.0, drop_rate=0.0, view=lambda x, _generator: x.flip(-1))
    order = []
    again.forward = lambda source, both: order.append(both[: len(both) // 2]) or source(both)
    run(again, *problem(), epochs=1)
    head = made().objective.prepare(torch.zeros(1, 32), [0, 1, 2])
    parameters = [*other.backbone().values()]
    sgd = torch.optim.SGD(
        [{"params": parameters}, {"params": head.parameters(), "lr": 1e-2}],
        0.05,
        momentum=0.9,
        weight_decay=5e-4,
    )
    for images, labels in zip(order[3:], batches, strict=True):
        sgd.zero_grad()
        loss_of(head(other(torch.cat([images, images.flip(-1)]))), labels).backward()
        sgd.step()
    for ours, plain in zip(extract.backbone().values(), parameters, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


def test_a_second_experience_decays_and_protects():
    extract, dataset = problem()
    mist = made(protect_rate=0.01)
    run(mist, extract, dataset)
    first = mist.selection
    mist.protect()
    protected = mist.history.protected["1.weight"]
    before = extract.model[1].weight.detach().clone()
    run(mist, extract, dataset, experience=1)
    assert torch.equal(mist.history.counts["1.weight"].bool(), first.masks["1.weight"])
    assert protected.any()
    assert torch.equal(extract.model[1].weight.detach()[protected], before[protected])
    assert (mist.sensitivity["1.weight"][protected] == 0).all()
    assert mist.scales["1.weight"].unique().tolist() == pytest.approx([0.9, 1.0])


def test_goes_on_from_a_state():
    options = {"protect_rate": 0.01, "objective": "cross_entropy"}
    ends = []
    for saved in (False, True):
        extract, dataset = problem()
        mist = made(**options)
        run(mist, extract, dataset)
        mist.protect()
        if saved:
            state, mist = mist.state_dict(), made(**{**options, "seed": 5})
            mist.load_state_dict(state)
        run(mist, extract, dataset, experience=1)
        ends.append(extract.model[1].weight.detach())
    assert torch.equal(*ends)


def test_stops_at_a_loss_that_is_not_finite():
    extract, dataset = problem()
    calls, before = [], []

    def view(x, _generator):
        calls.append(1)
        before.append(extract.model[1].weight.detach().clone())
        return x * float("nan") if len(calls) == 5 else x

    with pytest.raises(FloatingPointError, match="epoch 0, batch 1"):
        run(made(view=view), extract, dataset)
    assert len(calls) == 6  # three of the score pass, three steps of the first epoch
    assert torch.equal(before[5], before[4])  # the second step moved nothing
    assert not torch.equal(before[4], before[3])
    assert torch.isfinite(extract.model[1].weight).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"select_rate": 0},
        {"select_rate": 1.5},
        {"drop_rate": 1.0},
        {"drop_rate": float("nan")},
        {"drop_rate": "much"},
        {"ranking": "layer"},
        {"tune_epochs": -1},
        {"tune_epochs": 2.5},
        {"later_epochs": -1},
        {"batch_size": 1},
        {"score_on": "last"},
        {"tune_on": "never"},
        {"dynamics": "dense"},
        {"temperature": 0.0},
        {"lr": -1},
        {"overlap_decay": 0},
        {"protect_rate": 1},
        {"precision": "16"},
    ],
)
def test_options_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        MISTOptions(**wrong)


def test_a_selection_that_falls_short_is_said():
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=4)  # its last scales start at zero
    x, y = torch.rand(24, 3, 32, 32), torch.arange(24) % 3
    for falls_short in (True, False):
        if not falls_short:
            restart(network)
        method, extract = made(), FeatureExtractor(network, "fc")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run(method, extract, TensorDataset(x, y), epochs=0)
        messages = [str(w.message) for w in said if "MIST selects" in str(w.message)]
        assert len(messages) == falls_short
        assert (method.selection.fraction < 0.01) == falls_short
        assert not falls_short or "layer1.0.conv1.weight" in messages[0]
        assert not falls_short or f"{method.selection.fraction:.2%}" in messages[0]


def restart(network):
    """Let every scale of BatchNorm be one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
