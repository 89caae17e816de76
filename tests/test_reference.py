"""Numbers that the published implementation computed. MIST_REFERENCE_DIR names another set."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from mist_avalanche.benchmarks.stream import class_order, experience_sizes
from mist_avalanche.method import sparse_sgd
from mist_avalanche.method.objective import SupervisedInfoNCE
from mist_avalanche.method.selection import SelectionHistory, most_sensitive, select, top_entries
from mist_avalanche.method.sensitivity import fisher_scores
from mist_avalanche.method.sparse_sgd import ReferenceSGD
from mist_avalanche.method.views import LUMA, flip, grayscale, resized_crop
from mist_avalanche.models.classifier import always_selected
from mist_avalanche.models.heads import PrototypeHead, RidgeHead
from mist_avalanche.models.ridge import RIDGES, choose_ridge, validation_losses

DIRECTORY = Path(os.environ.get("MIST_REFERENCE_DIR") or Path(__file__).parent / "reference")
GOLDEN = json.loads((DIRECTORY / "golden.json").read_text())
DTYPES = {"f32": torch.float32, "f64": torch.float64}
PROTECT = {"ranpac": 0.0005, "simplecil": 0.0}  # 0: each tensor's single maximum


class Case(dict):
    """The arrays of one .npz file, read at once."""

    def __init__(self, name):
        with np.load(DIRECTORY / f"{name}.npz") as arrays:
            super().__init__({key: arrays[key] for key in arrays.files})

    def tensor(self, key, dtype=None):
        value = torch.from_numpy(self[key])
        return value if dtype is None else value.to(dtype)

    def mask(self, key, shape):
        bits = np.unpackbits(self[key], count=int(np.prod(shape))).reshape(tuple(shape))
        return torch.from_numpy(bits.astype(bool))

    def under(self, prefix):
        return [key[len(prefix) :] for key in self if key.startswith(prefix)]

    def tasks(self, prefix=""):
        """``task0``, ``task1``, … in their order, however many there are."""
        names = {key.removeprefix(prefix).split("/")[0] for key in self if key.startswith(prefix)}
        return sorted((n for n in names if n.startswith("task")), key=lambda n: int(n[4:]))


class Net(nn.Module):
    """The reference's network: a ViT and its projection, in the weights of case 2."""

    def __init__(self, case, dtype):
        super().__init__()
        sizes = {k: v for k, v in GOLDEN["net"].items() if k != "kind"}
        self.convnet = VisionTransformer(**sizes, num_classes=0)
        self.simclr = nn.Linear(*case["state/simclr.weight"].shape[::-1])
        self.load_state_dict({name: case.tensor(f"state/{name}") for name in case.under("state/")})
        self.to(dtype)

    def backbone(self):
        return {f"convnet.{name}": p for name, p in self.convnet.named_parameters()}

    def always(self):
        fixed = always_selected(self)
        return {name for name, p in self.backbone().items() if id(p) in fixed}

    def loss(self, batch):
        x, second, y = batch
        return SupervisedInfoNCE()(self.simclr(self.convnet(torch.cat([x, second]))), y)


@pytest.fixture(scope="module")
def case2():
    return Case("case2_fisher")


def batches_of(case2, task, dtype):
    n = len({key.split("/")[1] for key in case2 if key.startswith(f"task{task}/")})
    return [
        (
            case2.tensor(f"task{task}/batch{i}/inputs", dtype),
            case2.tensor(f"task{task}/batch{i}/aug", dtype),
            case2.tensor(f"task{task}/batch{i}/targets"),
        )
        for i in range(n)
    ]


LOSSES = Case("case1_loss")


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in LOSSES}))
@pytest.mark.parametrize("precision", DTYPES)
def test_loss_and_gradient(name, precision):
    z = LOSSES.tensor(f"{name}/z", DTYPES[precision]).requires_grad_()
    loss = SupervisedInfoNCE()(z, LOSSES.tensor(f"{name}/labels"))
    loss.backward()
    expected = LOSSES[f"{name}/loss_{precision}"].item()
    # One unit in the last place of a float32 near 18 is 1.9e-6.
    assert loss.item() == pytest.approx(expected, abs=1e-6 if precision == "f64" else 4e-6)
    gradient = LOSSES.tensor(f"{name}/grad_z_{precision}")
    assert (z.grad - gradient).abs().max() <= 1e-6 * gradient.abs().max()


def test_scores_masks_and_protection(case2):
    checked = 0
    rates = {r for k in case2 for r in re.findall(r"/mask([\d.]+)_", k)}
    for key in sorted({"/".join(k.split("/")[:3]) for k in case2 if "/scores_" in k}):
        precision, method, task = key.split("/")
        method, t, dtype = method.removeprefix("scores_"), int(task[4:]), DTYPES[precision]
        net, batches = Net(case2, dtype), batches_of(case2, t, dtype)
        shapes = {name: p.shape for name, p in net.backbone().items()}
        protected = {}
        if t:
            stem = f"{precision}/frozen_{method}/after_task{t - 1}"
            protected = {n: case2.mask(f"{stem}/{n}", s) for n, s in shapes.items()}
        scores = fisher_scores(net.loss, batches, net.backbone(), protected)
        for name, score in scores.items():
            # The reference divides by the number of batches twice.
            expected = case2.tensor(f"{key}/{name}")
            difference = (score / len(batches) - expected).abs().max()
            assert difference <= 1e-5 * expected.abs().max(), name
        for rate in rates:
            chosen = select(scores, float(rate), net.always(), within_budget=False)
            for name, mask in chosen.masks.items():
                stem = f"{precision}/mask{rate}_{method}/task{t}/{name}"
                assert torch.equal(mask, case2.mask(stem, mask.shape)), stem
                checked += 1
        for name, score in scores.items():
            stem = f"{precision}/frozen_{method}/after_task{t}/{name}"
            if stem in case2 and name not in net.always():
                frozen = top_entries(score, PROTECT[method]) | protected.get(name, False)
                assert torch.equal(frozen, case2.mask(stem, score.shape)), stem
    assert checked


def published_sgd(net, masks, scales, drop_rate=0.0):
    """The published dynamics and rates."""
    backbone = net.backbone()
    of_backbone = {
        "params": [*backbone.values()],
        "masks": [masks[name] for name in backbone],
        "scales": [scales.get(name) for name in backbone],
    }
    projection = {"params": [*net.simclr.parameters()], "lr": 1e-2}
    return ReferenceSGD([of_backbone, projection], 1e-4, drop_rate=drop_rate)


def test_masked_update(case2, monkeypatch):
    case = Case("case3_masked_update")
    net = Net(case2, torch.float32)
    shapes = {name: p.shape for name, p in net.backbone().items()}
    movable = {
        n: case.mask(f"mask/{n}", s) & ~case.mask(f"frozen/{n}", s) for n, s in shapes.items()
    }
    scales = {n: 0.9 ** case.tensor(f"overlap/{n}").float() for n in shapes}
    optimizer = published_sgd(net, movable, scales, drop_rate=0.9)
    steps = sorted({key.split("/")[0] for key in case if key.startswith("step")})
    for step in steps:
        kept = [case.mask(f"{step}/bern/{n}", s).flatten() for n, s in shapes.items()]
        kept += [torch.ones(p.numel(), dtype=torch.bool) for p in net.simclr.parameters()]
        drawn = iter(kept)
        monkeypatch.setattr(sparse_sgd, "draw_kept", lambda *_, drawn=drawn: next(drawn))
        for name, p in net.named_parameters():
            kind = "before" if name in shapes else "after"  # the projection is dropped by hand
            p.grad = case.tensor(f"{step}/grad_{kind}/{name}")
        optimizer.step()
        for name, p in net.named_parameters():
            expected = case.tensor(f"{step}/grad_after/{name}")
            assert (p.grad - expected).abs().max() <= 1e-6 * (1 + expected.abs().max()), name
            assert (p - case.tensor(f"{step}/param_after/{name}")).abs().max() <= 1e-6, name
    assert steps


def test_prototypes():
    case = Case("case5_simplecil")
    head = PrototypeHead()
    for task in case.tasks():
        for part in torch.arange(len(case[f"{task}/labels"])).split(17):
            head.update(case.tensor(f"{task}/features")[part], case.tensor(f"{task}/labels")[part])
        torch.testing.assert_close(
            head.prototypes.float(), case.tensor(f"{task}/fc_weight"), atol=1e-5, rtol=0
        )
        logits = head(case.tensor("test_features"))
        torch.testing.assert_close(logits, case.tensor(f"{task}/logits"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", DTYPES)
def test_ranpac(precision):
    case, dtype, exact, checked = Case("case4_ranpac"), DTYPES[precision], precision == "f64", 0
    projection, test = case.tensor("W_rand", dtype), case.tensor("test_features", dtype)
    head = RidgeHead(projection.shape[1], dtype=dtype)
    for task in (tasks := case.tasks()):
        features, labels = case.tensor(f"{task}/features", dtype), case.tensor(f"{task}/labels")
        if task == tasks[0]:
            head._shape_for(features)
            head.projection = projection
        head.update(features, labels)
        expected = {k: case.tensor(f"{precision}/{task}/{k}") for k in ("Q", "G", "logits")}
        rounding = {"atol": 1e-10, "rtol": 1e-12} if exact else {"atol": 1e-2, "rtol": 1e-5}
        n = len(expected["G"])
        torch.testing.assert_close(head.gram[:n, :n], expected["G"], **rounding)
        torch.testing.assert_close(head.cross, expected["Q"][:, : len(head.counts)], **rounding)

        # Rows are in the order of the reference's loader: no shuffling here. In float32 its losses
        # are noise at small ridges; ours choose what it chooses in float64.
        _, y = labels.unique(return_inverse=True)
        arguments = (head.expand, len(head.gram), features, torch.nn.functional.one_hot(y))
        assert choose_ridge(*arguments) == pytest.approx(case[f"f64/{task}/ridge"].item())
        # Classes that are not in the task add zeros to the mean.
        share = len(y.unique()) / expected["Q"].shape[1]
        stable = case.tensor(f"stable_ridges/{task}", torch.bool)
        losses = case.tensor(f"{precision}/{task}/ridge_losses")
        ours = validation_losses(*arguments) * share
        torch.testing.assert_close(
            ours[stable], losses[stable], rtol=1e-8 if exact else 2e-2, atol=0
        )
        if exact:  # there too, LU solves lose digits where G is singular but for the ridge
            torch.testing.assert_close(ours, losses, rtol=1e-3, atol=0)

        ridge = case[f"{precision}/{task}/ridge"].item()
        if exact or stable[RIDGES.index(min(RIDGES, key=lambda r: abs(r - ridge)))]:
            head.ridge.fill_(ridge)
            head.solve()
            tolerance = 1e-10 if exact else 1e-4
            torch.testing.assert_close(head(test), expected["logits"], atol=tolerance, rtol=0)
            checked += 1
    assert checked


def test_class_order():
    case = Case("case6_class_order")
    for name in {key.split("/")[0] for key in case}:
        expected = case[f"{name}/order"]
        order = class_order(len(expected), seed=int(name.split("_seed")[1]))
        assert order == expected.tolist()
        sizes = case[f"{name}/task_sizes"].tolist()  # by increment, ours by number
        if max(sizes) == -(-len(order) // len(sizes)):
            assert experience_sizes(len(order), len(sizes)) == sizes
        start = 0
        for t, size in enumerate(sizes):
            assert order[start : start + size] == case[f"{name}/task{t}_original_ids"].tolist()
            start += size
        assert np.argsort(order).tolist() == case[f"{name}/test_targets"].tolist()


def test_views():
    case = Case("case7_augment")
    x = case.tensor("inputs")
    # The reference's 1 keeps; it flips by grid_sample, whose interpolation rounds.
    flipped = flip(x, case.tensor("flip_bern") == 0)
    torch.testing.assert_close(flipped, case.tensor("after_flip"), atol=1e-5, rtol=0)
    grey = grayscale(flipped, case.tensor("gray_bern") == 1)
    torch.testing.assert_close(grey, case.tensor("after_gray"), atol=1e-5, rtol=0)
    width, height, x_shift, y_shift = case.tensor("whbias", torch.float32).unbind(1)
    boxes = torch.stack([(1 + x_shift - width) / 2, (1 + y_shift - height) / 2, width, height], 1)
    cropped = resized_crop(grey, boxes)
    torch.testing.assert_close(cropped, case.tensor("after_crop"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", PROTECT)
def test_end_to_end(case2, method):
    """For each task: score, three epochs of the reference's dynamics without dropping, protect."""
    case = Case("case8_end_to_end")
    net = Net(case2, torch.float64)
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    backbone, history, chosen = net.backbone(), SelectionHistory(), None
    for task in range(len(case.tasks(f"f64/{method}/"))):
        batches = batches_of(case2, task, torch.float64)
        scores = fisher_scores(net.loss, batches, backbone, history.protected)
        if chosen is not None:
            history.record(chosen)
        chosen = select(scores, 0.1, net.always(), within_budget=False)
        optimizer = published_sgd(net, history.movable(chosen), history.scales(0.9))
        for batch in 3 * batches:
            optimizer.zero_grad()
            net.loss(batch).backward()
            optimizer.step()
        history.protect(most_sensitive(scores, PROTECT[method], chosen.always))
        stem = f"f64/{method}/task{task}"
        for name in case.under(f"{stem}/"):
            moved = dict(net.named_parameters())[name] - initial[name]
            expected = case.tensor(f"{stem}/{name}", torch.float64)
            assert (moved - expected).abs().max() <= 1e-6 * expected.abs().max(), (stem, name)


def test_vectors_of_other_sizes_and_seeds(tmp_path, monkeypatch):
    """20 of 50 classes an experience; wide images that are flipped by grid_sample."""
    order = np.random.RandomState(7).permutation(50)
    parts = {f"task{t}_original_ids": part for t, part in enumerate(np.split(order, [20, 40]))}
    classes = {"order": order, "task_sizes": [20, 20, 10], "test_targets": np.argsort(order)}
    classes = {f"n50_inc20_seed7/{k}": np.asarray(v) for k, v in {**parts, **classes}.items()}
    np.savez(tmp_path / "case6_class_order.npz", **classes)

    torch.manual_seed(0)
    x, keep, whbias = torch.rand(7, 3, 40, 48), torch.arange(7) % 2, torch.rand(7, 4)
    whbias[:, :2] = 0.3 + 0.5 * whbias[:, :2]
    whbias[:, 2:] = (2 * whbias[:, 2:] - 1) * (1 - whbias[:, :2])
    affine = torch.eye(2, 3).repeat(7, 1, 1)
    affine[:, 0, 0] = 2.0 * keep - 1

    def sampled(images, theta):
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False, padding_mode="reflection")

    flipped, chosen = sampled(x, affine), keep.view(7, 1, 1, 1)
    grey = chosen * (flipped * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    grey = grey + (1 - chosen) * flipped
    crop = torch.zeros(7, 2, 3)
    crop[:, [0, 1], [0, 1]], crop[:, :, 2] = whbias[:, :2], whbias[:, 2:]
    views = {"inputs": x, "flip_bern": keep, "gray_bern": keep, "whbias": whbias}
    views |= {"after_flip": flipped, "after_gray": grey, "after_crop": sampled(grey, crop)}
    np.savez(tmp_path / "case7_augment.npz", **{k: v.numpy() for k, v in views.items()})
    monkeypatch.setattr(sys.modules[__name__], "DIRECTORY", tmp_path)
    assert (flipped - flip(x, keep == 0)).abs().max() > 1e-6
    test_class_order()
    test_views()
