"""MIST followed from state to state: features of every state first, classifiers after.

A job tunes the backbone before the first or before every experience, as MISTPlugin does, and saves
the features that classifiers need: those a class had when it was learned, and those of all images
under the first and the last state. What a strategy would have made of them, with its statistics
left stale, moved, or computed again ("refit", which needs past images), is computed from there.
"""

import copy
import hashlib
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import sets
import torch
from jobs import BACKBONE, RANDOM_FEATURES
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.models.drift import fit_drift, rotations_and_flips
from mist_avalanche.models.heads import PrototypeHead, RidgeHead
from mist_avalanche.strategies import SimpleCIL
from mist_avalanche.utils import derive_seed

DRAWS = range(5)  # of RanPAC's W
BLENDS = (0.25, 0.5, 0.75)  # shares of the tuned weights between frozen and tuned
Features = dict[str, Tensor]
Views = Callable[[Tensor], Iterable[Tensor]]  # of a batch of images


def as_it_is(x: Tensor) -> list[Tensor]:
    """One view."""
    return [x]


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    Args:
        set: of :data:`sets.TITLES`.
        size: pixels per side.
        mist: arguments of MISTPlugin; None for the frozen backbone.
        seed: of tuning.
        held_out: measure held-out training images of all classes, a fifth of each.
        order: of the classes.
    """

    set: str
    size: int
    mist: dict[str, Any] | None = field(default=None, hash=False)
    seed: int = 0
    held_out: bool = False
    order: int = 1993

    @property
    def key(self) -> str:
        """Its name in the results."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Tuning":
        """The job that a row is of."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def file(self, cache: Path) -> Path:
        """Where its features are."""
        name = hashlib.sha1(self.key.encode()).hexdigest()[:16]
        return cache / "features" / f"{self.set}-{name}.pt"


def features(job: Tuning, weights: Path, cache: Path, device: str, precision: str) -> Features:
    """Features of training images, in their order of appearance, and test images.

    Returns:
        ``train``, ``test`` of the last state, ``train first``, ``test first`` of that after the
        first experience, ``train mirrored``, ``test mirrored`` of mirrored images under the frozen
        backbone, ``stale`` of the training images under the state of their own time;
        ``before 1``, ``after 1``, … (n, V, D) of the views of an experience's images around its
        tuning; ``train 0.5``, … of weights between frozen and tuned; labels ``y``, ``y test`` and
        ``sizes`` of the experiences.
    """
    file = job.file(cache)
    if file.exists():
        return torch.load(file)
    if job.held_out:
        stream = sets.held_out(job.set, cache, job.order, job.seed, 10, job.size)
    else:
        stream = sets.benchmark(job.set, cache, job.order, size=job.size)
    train, test = stream.train_stream, stream.test_stream
    torch.manual_seed(job.seed)
    backbone = create_backbone(BACKBONE, weights, image_size=job.size).to(device).eval()
    found: Features = {
        "y": torch.tensor([y for e in train for y in e.dataset.targets]),
        "y test": torch.tensor([y for e in test for y in e.dataset.targets]),
        "sizes": torch.tensor([len(e.dataset) for e in train]),
    }

    def both(name: str = "", views: Views = as_it_is) -> None:
        for part, part_stream in (("train", train), ("test", test)):
            rows = [extract(backbone, e, device, views) for e in part_stream]
            found[part + name] = torch.cat(rows)[:, 0]

    if job.mist is not None:
        view: Any = {"flip": 0.0} if job.set == "omniglot" else None
        common = {"view": view, "verbose": False, "precision": precision, "seed": job.seed}
        mist = MISTPlugin(**common, **job.mist)
        strategy = SimpleCIL(model=backbone, plugins=[mist], device=device, evaluator=None)
        frozen = copy.deepcopy(backbone.state_dict())
        stale = []
        for t, e in enumerate(train):
            if t:
                found[f"before {t}"] = extract(backbone, e, device, rotations_and_flips)
            strategy.train(e)
            after = extract(backbone, e, device, rotations_and_flips if t else as_it_is)
            stale.append(after[:, 0])
            if t:
                found[f"after {t}"] = after
            else:
                both(" first")
                if job.mist["tune_on"] == "first":
                    break
        found["stale"] = torch.cat(stale)
        if job.mist["tune_on"] == "first" and job.held_out:
            tuned = copy.deepcopy(backbone.state_dict())
            for share in BLENDS:
                blended = {n: torch.lerp(w, tuned[n], share) for n, w in frozen.items()}
                backbone.load_state_dict(blended)
                both(f" {share}")
    if job.mist is None or job.mist["tune_on"] == "every":
        both()
    if job.mist is None and not job.held_out and job.size == sets.SIZE:
        both(" mirrored", lambda x: [x.flip(3)])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, file)
    return found


@torch.no_grad()
def extract(backbone: nn.Module, experience: Any, device: str, views: Views = as_it_is) -> Tensor:
    """Features (n, V, D) of V views of an experience's images under the evaluation transform."""
    backbone.eval()
    rows = []
    for x, *_ in DataLoader(experience.dataset.eval(), 48):
        rows.append(torch.stack([backbone(v.to(device)).float().cpu() for v in views(x)], 1))
    return torch.cat(rows)


# ---- Statistics that follow the features ---------------------------------------------------------

Map = Callable[[Tensor], Tensor]


def package(old: Tensor, new: Tensor, t: int) -> Map:
    """What the package does."""
    return fit_drift(old, new, torch.Generator().manual_seed(t))


def one_view(old: Tensor, new: Tensor, t: int) -> Map:
    """The same from the images as they are."""
    return package(old[:, :1], new[:, :1], t)


def mean_shift(old: Tensor, new: Tensor, t: int) -> Map:
    """All features move alike."""
    shift = (new - old)[:, 0].mean(0)
    return lambda x: x + shift


def near_shift(old: Tensor, new: Tensor, t: int) -> Map:
    """Features move as near ones do (SDC, arXiv 2004.00440), σ 0.3 of the median distance."""
    x, shifts = old[:, 0], (new - old)[:, 0]
    width = 0.3 * torch.pdist(x).median()
    near: Map = lambda q: torch.softmax(-torch.cdist(q, x).square() / (2 * width**2), 1)  # noqa: E731
    return lambda q: q + near(q) @ shifts


def curved(old: Tensor, new: Tensor, t: int) -> Map:
    """Kernel ridge regression of the displacement, Gaussian of the median distance, all views."""
    x, y = (f.flatten(0, 1).double() for f in (old, new - old))
    width, mean_ = torch.pdist(x[:2000]).median(), y.mean(0)
    kernel: Map = lambda q: torch.exp(-torch.cdist(q, x).square() / (2 * width**2))  # noqa: E731
    weights = torch.linalg.solve(kernel(x) + 0.1 * torch.eye(len(x)), y - mean_)
    return lambda q: q + (kernel(q.double()) @ weights + mean_).float()


MAPS = {
    "mean shift": mean_shift,
    "near shift": near_shift,
    "affine, one view": one_view,
    "curved": curved,
}


def followed(found: Features, fit: Callable[[Tensor, Tensor, int], Map] = package) -> Tensor:
    """The stale features, moved before each later experience by a map that ``fit`` makes."""
    sizes = found["sizes"].tolist()
    moved = found["stale"][: sizes[0]]
    for t in range(1, len(sizes)):
        move = fit(found[f"before {t}"], found[f"after {t}"], t)
        moved = torch.cat([move(moved), found["stale"][len(moved) : len(moved) + sizes[t]]])
    return moved


# ---- What classifiers make of them ---------------------------------------------------------------


def simplecil(train: Tensor, test: Tensor, found: Features) -> float:
    """A_T of class means."""
    head = PrototypeHead()
    head.update(train, found["y"])
    return _accuracy(head(test), found["y test"])


def ranpac(train: Tensor, test: Tensor, found: Features, draws: Any = DRAWS, m: int = 0) -> Any:
    """A_T of RanPAC for draws of W: as its ``fit`` leaves the head after the last experience."""
    scores, last = [], int(found["sizes"][-1])
    for draw in draws:
        head = RidgeHead(m or RANDOM_FEATURES, draw, torch.float64)
        head.update(train, found["y"])
        order = torch.Generator().manual_seed(derive_seed(draw, len(train)))
        head.choose_ridge(train[-last:], found["y"][-last:], order)
        head.solve()
        scores.append(_accuracy(head(test), found["y test"]))
    return scores


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return round(100.0 * (logits.argmax(1) == y).double().mean().item(), 3)


def joined(*parts: Tensor) -> Tensor:
    """Features side by side, each of norm 1."""
    return torch.cat([nn.functional.normalize(part, dim=1) for part in parts], 1)


def variants(found: Features, frozen: Features, *, maps: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Training and test features of what is compared, by its name."""
    f, g = frozen["train"], frozen["test"]
    if "train first" not in found:
        cases = {"frozen": (f, g)}
        if "train mirrored" in found:
            other, other_test = found["train mirrored"], found["test mirrored"]
            cases["mirrored, joined"] = joined(f, other), joined(g, other_test)
        return cases
    first, first_test = found["train first"], found["test first"]
    cases = {"first": (first, first_test), "joined": (joined(f, first), joined(g, first_test))}
    for share in BLENDS:
        if f"train {share}" in found:
            cases[f"blend {share}"] = found[f"train {share}"], found[f"test {share}"]
    if "train" in found:
        moved, test = followed(found), found["test"]
        cases |= {
            "every": (found["stale"], test),
            "drift": (moved, test),
            "refit": (found["train"], test),
            "drift, joined": (joined(f, moved), joined(g, test)),
        }
        if maps:
            cases |= {name: (followed(found, fit), test) for name, fit in MAPS.items()}
    return cases


def work(job: Tuning, weights: Path, cache: Path, device: str, precision: str) -> dict[str, Any]:
    """The row of a job, in a process of a pool; an error is a result too."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    try:
        found = features(job, weights, cache, device, precision)
        plain = Tuning(job.set, job.size, None, job.seed * job.held_out, job.held_out)
        frozen = features(plain, weights, cache, device, precision)
        row = {**asdict(job), "extracted": round(time.perf_counter() - start)}
        row["A_T"] = {
            name: {"simplecil": simplecil(*xs, found), "ranpac": ranpac(*xs, found)}
            for name, xs in variants(found, frozen, maps=job.held_out).items()
        }
        if job.mist is None and "mirrored, joined" in row["A_T"]:
            train, test = frozen["train"], frozen["test"]
            wide = ranpac(train, test, found, m=2 * RANDOM_FEATURES)
            same = row["A_T"]["frozen"]["simplecil"]
            row["A_T"]["twice M"] = {"simplecil": same, "ranpac": wide}
    except Exception:
        return {"failed": traceback.format_exc()}
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {**row, "device": where, "seconds": round(time.perf_counter() - start)}


def summary(row: dict[str, Any]) -> str:
    """A row in a line."""
    cells = (f"{n} {a['simplecil']:.1f}/{mean(a['ranpac']):.1f}" for n, a in row["A_T"].items())
    lr = row["mist"]["lr"] if row["mist"] else 0
    what = f"{row['set']} {row['size']} lr {lr:g} seed {row['seed']}"
    return f"{what}{' held out' * row['held_out']}: {', '.join(cells)}"
