"""The jobs of the study, in stages; a stage may use what earlier ones have found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import mean
from typing import Any

from jobs import BACKBONE, Job
from sets import SIZE, TITLES
from states import Tuning

from mist_avalanche.models import backbone_defaults

EPOCHS = 10
DEFAULT_LR = backbone_defaults(BACKBONE).mist["lr"]
LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RATES = (1e-4, 1e-3, 3e-3, 1e-2)
SMALL = 112  # pixels
DENSE = {"select_rate": 1.0, "drop_rate": 0.0}
DENSE_LRS = (3e-5, 1e-4, 3e-4, 1e-3)
SEEDS = (0, 1, 2)
Results = Iterable[dict[str, Any]]


def first(lr: float, **more: Any) -> dict[str, Any]:
    """Arguments of MIST before the first experience."""
    return {"tune_on": "first", "lr": lr, "tune_epochs": EPOCHS, **more}


JOINED = first(1e-2)  # of joined features


def choice(results: Results) -> list[Job]:
    """Learning rates, on held-out training images of classes that are tuned on, and of others."""
    found = []
    for name in TITLES:
        for parts in (2, 1):
            for seed in SEEDS if parts == 2 else SEEDS[:1]:
                found.append(Job(name, "frozen", None, seed, held_out=parts))
                found += [Job(name, "mist", first(lr), seed, held_out=parts) for lr in LRS]
                found += [
                    Job(name, "dense", first(lr, **DENSE), seed, held_out=parts) for lr in DENSE_LRS
                ]
    return found


def choice_lora(results: Results) -> list[Job]:
    """The same for LoRA, on the two sets where MIST gains most; rank 7 is 4.7 % of the entries."""
    return [
        Job(name, "lora", None, seed, held_out=2, lora={"rank": 7, "lr": lr, "epochs": EPOCHS})
        for seed in SEEDS[:2]
        for name in furthest(results)
        for lr in (1e-4, 3e-4, 1e-3, 3e-3)
    ]


def plain_baselines(results: Results) -> list[Job]:
    """LoRA on the first experience of these two sets; linear probes of all classes of all sets."""
    lora = {"rank": 7, "lr": best_lr(results, "lora"), "epochs": EPOCHS}
    found = [Job(n, "lora", None, s, lora=lora) for s in SEEDS for n in furthest(results)]
    return found + [Job(name, "frozen, probed", None, 0, probe=True) for name in TITLES]


def best_lr(results: Results, method: str, name: str | None = None) -> float:
    """The learning rate of the best nearest mean on held-out images, over all sets or of one.

    The backbone is tuned on half of the classes, so half of the images are of other classes.
    """
    by_lr: dict[float, list[float]] = defaultdict(list)
    for r in results:
        if r["held_out"] == 2 and r["method"] == method and name in (None, r["set"]):
            by_lr[(r["mist"] or r["lora"])["lr"]].append(r["simplecil"]["A_T"])
    return max(sorted(by_lr), key=lambda lr: round(mean(by_lr[lr]), 6))


def main(results: Results) -> list[Job]:
    """Frozen and MIST first: all sets, three seeds; birds in other orders of classes too."""
    found, lr = [], best_lr(results, "mist")
    for name in TITLES:
        found += [Job(name, "mist first", first(lr), seed) for seed in SEEDS]
        found += [Job(name, "frozen", None, seed) for seed in SEEDS]
    for order in (1994, 1995):
        found += [
            Job("cub", "frozen", None, 0, order),
            Job("cub", "mist first", first(lr), 0, order),
        ]
    return found


def default(results: Results) -> list[Job]:
    """DeiT-Tiny's default: the highest learning rate that loses on no held-out set."""
    return [Job(n, "mist default", first(DEFAULT_LR), seed) for n in TITLES for seed in SEEDS]


def suggested(results: Results) -> list[Job]:
    """The learning rate that each set alone chooses, where it is not measured on all sets."""
    found = []
    for name in TITLES:
        lr = best_lr(results, "mist", name)
        if lr not in (DEFAULT_LR, best_lr(results, "mist")):
            found += [Job(name, "mist suggested", first(lr), seed) for seed in SEEDS]
    return found


def every(results: Results) -> list[Job]:
    """MIST before every experience, with and without drift compensation; two seeds."""
    mist = first(best_lr(results, "mist"), tune_on="every")
    return [
        Job(name, "mist every", mist, seed, drift=True) for seed in SEEDS[:2] for name in TITLES
    ]


def parts(results: Results) -> list[Job]:
    """What each part contributes, on the two sets where MIST gains most."""
    lr, dense_lr = best_lr(results, "mist"), best_lr(results, "dense")
    variants = {
        "random mask": first(lr, select_by="random"),
        "dense, own lr": first(dense_lr, **DENSE),
        "reference dynamics": first(lr, dynamics="reference"),
        "ranked globally": first(lr, ranking="global"),
        "no dropping": first(lr, drop_rate=0.0),
        "magnitude": first(lr, select_by="magnitude"),
        "gradient": first(lr, select_by="gradient"),
        "cross-entropy": first(lr, objective="cross_entropy"),
        "select_rate 0.01": first(lr, select_rate=0.01),
        "select_rate 0.1": first(lr, select_rate=0.1),
    }
    found = []
    far = furthest(results)
    for seed in SEEDS:
        found += [Job(n, method, mist, seed) for method, mist in variants.items() for n in far]
    for other in ("cub", "cifar"):
        found += [Job(n, f"tuned on {other}", first(lr), 0, tune_on=other) for n in far]
    return found


def furthest(results: Results) -> list[str]:
    """The two sets where MIST gains most A_T, both strategies together."""
    gains: dict[str, float] = defaultdict(float)
    for r in results:
        if not r["held_out"] and r["order"] == 1993 and r["method"] in ("frozen", "mist first"):
            sign = 1 if r["method"] == "mist first" else -1
            gains[r["set"]] += sign * (r["simplecil"]["A_T"] + r["ranpac"]["A_T"])
    return sorted(gains, key=lambda name: -gains[name])[:2]


def beyond(results: Results) -> list[Job]:
    """Options beyond the paper, on held-out training images of all classes of cars."""
    lr, falling = best_lr(results, "mist"), {"tried": {"cosine": True}}
    variants: dict[str, dict[str, Any]] = {
        "mist, again": {"mist": first(lr)},
        "20 epochs": {"mist": first(lr, tune_epochs=20)},
        "20 epochs, half lr": {"mist": first(lr / 2, tune_epochs=20)},
        "temperature 0.2": {"mist": first(lr, temperature=0.2)},
        "batch 96, double lr": {"mist": first(2 * lr, batch_size=96)},
        "closer view": {"mist": first(lr, view={"scale": (0.1, 1.0)})},
        "more colours": {"mist": first(lr), "tried": {"colours": 0.4}},
        "layer decay, double lr": {"mist": first(2 * lr), "tried": {"layerwise": 0.8}},
        "cosine": {"mist": first(lr), **falling},
        "cosine, double lr": {"mist": first(2 * lr), **falling},
        "cosine, triple lr": {"mist": first(3 * lr), **falling},
        "cosine, 20 epochs": {"mist": first(lr, tune_epochs=20), **falling},
        "cosine, double lr, 20 epochs": {"mist": first(2 * lr, tune_epochs=20), **falling},
        "ranked globally, cosine, double lr": {"mist": first(2 * lr, ranking="global"), **falling},
        "every, 1 epoch later": {"mist": first(lr, tune_on="every", later_epochs=1), "drift": True},
        "every, 3 epochs later, a third of lr": {
            "mist": first(lr / 3, tune_on="every", later_epochs=3),
            "drift": True,
        },
        "every, 3 epochs later, cosine": {
            "mist": first(lr, tune_on="every", later_epochs=3),
            "drift": True,
            **falling,
        },
    }
    found = [
        Job("cars", method, seed=seed, held_out=10, **arguments)
        for seed in SEEDS
        for method, arguments in variants.items()
    ]
    found.sort(key=lambda job: (not job.drift, -job.mist["tune_epochs"]))  # the longest first
    return [*found, *(Job("cars", "frozen", None, seed, held_out=10) for seed in SEEDS)]


def later(lr: float) -> dict[str, Any]:
    """Arguments of MIST before every experience, as where drift is compensated."""
    epochs = backbone_defaults(BACKBONE).mist_with_drift["later_epochs"]
    return first(lr, tune_on="every", later_epochs=epochs)


def rates(results: Results) -> list[Tuning]:
    """Learning rates before every experience, at 112 pixels; the default rate on near sets too."""
    found = [Tuning(name, SMALL) for name in TITLES]
    for name in ("cars", "omniglot", "cub", "cifar"):
        lrs = RATES if name in ("cars", "omniglot") else (DEFAULT_LR,)
        found += [Tuning(name, SMALL, later(lr), seed) for seed in SEEDS[:2] for lr in lrs]
    return found


def held_out(results: Results) -> list[Tuning]:
    """Before every experience and joined features, on held-out training images at 112 pixels."""
    found = [Tuning(n, SMALL, None, s, held_out=True) for n in TITLES for s in SEEDS[:2]]
    found += [Tuning("cars", SMALL, later(lr), 0, held_out=True) for lr in (1e-2, DEFAULT_LR)]
    return found + [
        Tuning(name, SMALL, first(lr), seed, held_out=True)
        for lr in (1e-2, DEFAULT_LR)
        for seed in SEEDS[:2]
        for name in ("omniglot", "cub", "cifar")
    ]


def joined(results: Results) -> list[Tuning]:
    """Joined features of a backbone that is tuned once, at 224 pixels, and of a random mask."""
    found = [Tuning(name, SIZE) for name in TITLES]
    found += [Tuning(name, SIZE, JOINED, seed) for seed in SEEDS for name in TITLES]
    return found + [Tuning(n, SIZE, {**JOINED, "select_by": "random"}) for n in ("cub", "cars")]


STAGES: dict[str, Callable[[Results], list[Any]]] = {
    "choice": choice,
    "main": main,
    "default": default,
    "suggested": suggested,
    "every": every,
    "parts": parts,
    "choice of lora": choice_lora,
    "plain": plain_baselines,
    "beyond": beyond,
    "held out": held_out,
    "rates": rates,
    "joined": joined,
}
