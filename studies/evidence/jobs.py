"""One job: both strategies on a backbone that MIST has tuned or not, with or without drift."""

from __future__ import annotations

import copy
import json
import random
import time
import traceback
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import plain
import sets
import torch
import tried
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.models import create_backbone
from mist_avalanche.runs import summarize
from mist_avalanche.strategies import RanPAC, SimpleCIL

BACKBONE = "deit_tiny_patch16_224"
RANDOM_FEATURES = 5000


@dataclass(frozen=True)
class Job:
    """What is measured.

    Args:
        set: of :data:`sets.TITLES`.
        method: name in tables.
        mist: arguments of MISTPlugin; None for the frozen backbone.
        seed: of tuning and of RanPAC.
        order: of the classes; with ``held_out`` of the first experience.
        drift: strategies with drift compensation too.
        held_out: 0 for the test images; else held-out training images are measured: of the first
            experience, with its classes in 1 or 2 parts, or of all classes, in 10.
        tune_on: another set whose first experience MIST tunes on, as a control.
        lora: rank, learning rate and epochs of LoRA on the first experience, instead of MIST.
        probe: a linear probe of all classes of the frozen backbone, and nothing else.
        tried: options of :mod:`tried`.
    """

    size = sets.SIZE

    set: str
    method: str
    mist: dict[str, Any] | None = field(default=None, hash=False)
    seed: int = 0
    order: int = 1993
    drift: bool = False
    held_out: int = 0
    tune_on: str | None = None
    lora: dict[str, Any] | None = field(default=None, hash=False)
    probe: bool = False
    tried: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """Its name in the results."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Job:
        """The job that a row of results is of."""
        given = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        return cls(**{**given, "probe": "probe" in given and given["probe"] is not False})

    def plugin(self, precision: str) -> MISTPlugin:
        """MIST as it is measured here."""
        view: Any = {"flip": 0.0} if self.set == "omniglot" else None
        more = dict(self.tried)
        if "colours" in more:
            view = tried.Colours(more.pop("colours"))
        common = {"verbose": False, "precision": precision}
        mist = MISTPlugin(**{"view": view, **common, "seed": self.seed, **self.mist})
        if more:
            mist.method = tried.Scheduled(mist.options, **more)
        return mist


class _Follow(SupervisedPlugin):
    """Gives a strategy the weights that the plugin of another one has just tuned."""

    def __init__(self, leader: nn.Module) -> None:
        super().__init__()
        self.leader = leader

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take the weights over."""
        strategy.model.backbone.load_state_dict(self.leader.state_dict())


def run(job: Job, weights: Path, cache: Path, device: str, precision: str) -> dict[str, Any]:
    """The row of a job: A_T, A_bar and correct images of each strategy."""
    start = time.perf_counter()
    if job.held_out:
        stream = sets.held_out(job.set, cache, job.order, job.seed, job.held_out)
    else:
        stream = sets.benchmark(job.set, cache, job.order)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(job.seed)
    backbone = create_backbone(BACKBONE, weights)
    row = {**asdict(job), "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    if job.probe:
        row["probe"] = plain.probe(backbone, stream, device)
        return {**row, "seconds": {"all": round(time.perf_counter() - start, 2)}}
    mist = None if job.mist is None else job.plugin(precision)
    if job.lora is not None:
        first = stream.train_stream[0]
        row["selected"] = plain.tune_lora(backbone, first, device, precision=precision, **job.lora)
    plugins = [mist] if mist else []
    if job.tune_on is not None:
        other = sets.benchmark(job.tune_on, cache, job.order)
        _strategy(SimpleCIL, backbone, plugins, device).train(other.train_stream[0])
        plugins = []

    follow = [_Follow(backbone)] if plugins else []
    ranpac = {"n_random_features": RANDOM_FEATURES, "seed": job.seed}
    drift = {"drift_compensation": True}
    kinds: dict[str, Any] = {}
    if job.held_out in (0, 10):
        kinds["ranpac"] = RanPAC, ranpac
    if job.drift:
        kinds |= {"simplecil+drift": (SimpleCIL, drift), "ranpac+drift": (RanPAC, ranpac | drift)}
    strategies = {"simplecil": _strategy(SimpleCIL, backbone, plugins, device)}
    for name, (kind, more) in kinds.items():
        strategies[name] = _strategy(kind, copy.deepcopy(backbone), follow, device, **more)

    counts = [len(e.dataset) for e in stream.test_stream]
    correct: dict[str, list[list[int]]] = {name: [] for name in strategies}
    tuned = 0.0
    for t, experience in enumerate(stream.train_stream):
        for name, strategy in strategies.items():
            began = time.perf_counter()
            strategy.train(experience)
            if name == "simplecil":
                tuned += time.perf_counter() - began
            metrics = strategy.eval(stream.test_stream[: t + 1])
            shares = (
                metrics[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{i:03d}"]
                for i in range(t + 1)
            )
            correct[name].append([round(a * n) for a, n in zip(shares, counts, strict=False)])
    for name, rows in correct.items():
        row[name] = {**summarize(rows, counts), "correct": rows}
    if mist is not None and mist.selection is not None:
        row["selected"] = mist.selection.fraction
        row["tuning_losses"] = [round(loss, 4) for epochs in mist.losses for loss in epochs]
    seconds = {"all": round(time.perf_counter() - start, 2), "simplecil": round(tuned, 2)}
    return {**row, "counts": counts, "seconds": seconds}


def work(job: Job, weights: Path, cache: Path, device: str, precision: str) -> dict[str, Any]:
    """:func:`run` in a process of a pool; an error is a result too."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        return run(job, weights, cache, device, precision)
    except Exception:
        return {"failed": traceback.format_exc(), "method": job.method}


def _strategy(
    kind: type, backbone: nn.Module, plugins: list[Any], device: str, **arguments: Any
) -> Any:
    return kind(
        model=backbone,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
        train_mb_size=128,
        eval_mb_size=128,
        device=device,
        **arguments,
    )
