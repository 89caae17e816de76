"""The jobs of the study, in stages; each stage may use what the earlier ones have found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

from jobs import BACKBONE, Job
from sets import TITLES

from mist_avalanche.models import backbone_defaults

EPOCHS = 10
DEFAULT_LR = backbone_defaults(BACKBONE).mist["lr"]
LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DENSE = {"select_rate": 1.0, "drop_rate": 0.0}
DENSE_LRS = (3e-5, 1e-4, 3e-4, 1e-3)
SEEDS = (0, 1, 2)
Results = Iterable[dict[str, Any]]


def first(lr: float, **more: Any) -> dict[str, Any]:
    """MIST before the first experience only."""
    return {"tune_on": "first", "lr": lr, "tune_epochs": EPOCHS, **more}


def choice() -> list[Job]:
    """Learning rates, on held-out training images: on classes that are tuned on, and on others."""
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
    """The same for LoRA, on the two sets where MIST gives most; rank 7 is 4.7 % of the entries."""
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

    The backbone is tuned on half of the classes, so that half of what is judged are classes to
    come.
    """
    by_lr: dict[float, list[float]] = defaultdict(list)
    for r in results:
        if r["held_out"] == 2 and r["method"] == method and name in (None, r["set"]):
            by_lr[(r["mist"] or r["lora"])["lr"]].append(r["simplecil"]["A_T"])
    return max(sorted(by_lr), key=lambda lr: round(mean(by_lr[lr]), 6))


def main(lr: float) -> list[Job]:
    """Frozen and MIST first: all sets, three seeds; birds in other orders of classes too."""
    found = []
    for name in TITLES:
        found += [Job(name, "mist first", first(lr), seed) for seed in SEEDS]
        found += [Job(name, "frozen", None, seed) for seed in SEEDS]
    for order in (1994, 1995):
        found += [
            Job("cub", "frozen", None, 0, order),
            Job("cub", "mist first", first(lr), 0, order),
        ]
    return found


def default() -> list[Job]:
    """What is DeiT-Tiny's default: the highest rate that loses on no held-out set."""
    sets = ("cars", "omniglot", "cub", "cifar")
    return [Job(n, "mist default", first(DEFAULT_LR), seed) for n in sets for seed in SEEDS]


def suggested(results: Results) -> list[Job]:
    """A learning rate for each set, where it is not one of those that all sets have."""
    found = []
    for name in ("cars", "cub", "omniglot", "cifar"):
        lr = best_lr(results, "mist", name)
        if lr not in (DEFAULT_LR, best_lr(results, "mist")):
            found += [Job(name, "mist suggested", first(lr), seed) for seed in SEEDS]
    return found


def every(lr: float) -> list[Job]:
    """MIST before every experience, with and without drift compensation; two seeds."""
    arguments = {"tune_on": "every", "lr": lr, "tune_epochs": EPOCHS}
    sets = [(name, seed) for seed in SEEDS[:2] for name in ("cars", "omniglot", "cub", "cifar")]
    return [Job(name, "mist every", arguments, seed, drift=True) for name, seed in sets]


def parts(results: Results, lr: float, dense_lr: float) -> list[Job]:
    """What the parts are worth, on the two sets where MIST first gives most."""
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
    """The two sets where MIST first gives most A_T, both strategies together."""
    gains: dict[str, float] = defaultdict(float)
    for r in results:
        if not r["held_out"] and r["order"] == 1993 and r["method"] in ("frozen", "mist first"):
            sign = 1 if r["method"] == "mist first" else -1
            gains[r["set"]] += sign * (r["simplecil"]["A_T"] + r["ranpac"]["A_T"])
    return sorted(gains, key=lambda name: -gains[name])[:2]


def variants(lr: float) -> dict[str, dict[str, Any]]:
    """Options for more than the paper, as arguments of a job, by name."""
    every = {"tune_on": "every", "tune_epochs": EPOCHS}
    falling = {"tried": {"cosine": True}}
    return {
        "mist, again": {"mist": first(lr)},
        "projection first": {"mist": first(lr, projection_epochs=10)},
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
        "every, 1 epoch later": {"mist": {**every, "lr": lr, "later_epochs": 1}, "drift": True},
        "every, 3 epochs later, a third of lr": {
            "mist": {**every, "lr": lr / 3, "later_epochs": 3},
            "drift": True,
        },
        "every, 3 epochs later, cosine": {
            "mist": {**every, "lr": lr, "later_epochs": 3},
            "drift": True,
            **falling,
        },
    }


JUDGE = "cars"
BEST = "projection first"


def beyond(lr: float) -> list[Job]:
    """The options on held-out training images of all classes of cars."""
    found = [
        Job(JUDGE, method, seed=seed, held_out=10, **arguments)
        for seed in SEEDS
        for method, arguments in variants(lr).items()
    ]
    found.sort(key=lambda job: (not job.drift, -job.mist["tune_epochs"]))  # the longest first
    return [*found, *(Job(JUDGE, "frozen", None, seed, held_out=10) for seed in SEEDS)]


def confirm(lr: float) -> list[Job]:
    """The best of them, on the test images of all sets."""
    sets = ("cars", "cub", "omniglot", "cifar")
    arguments = variants(lr)[BEST]
    return [Job(name, BEST, seed=seed, **arguments) for name in sets for seed in SEEDS]
