"""One job: a backbone tuned by MIST or not, under both strategies, with or without drift."""

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
import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from torch import nn

from mist_avalanche import MISTPlugin
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.runs.metrics import summarize
from mist_avalanche.runs.suggest import Cosines
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
        held_out: 0 for the test images; else measured on held-out training images: of the first
            experience, its classes in 1 or 2 parts, or of all classes, in 10.
        tune_on: another set whose first experience MIST is tuned on, as a control.
        lora: rank, learning rate and epochs of LoRA on the first experience, instead of MIST.
        probe: a linear probe of all classes of the frozen backbone, and nothing else.
        tried: of :mod:`tried`, by name.
    """

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
        return cls(**{f.name: row[f.name] for f in fields(cls) if f.name in row})


class _Follow(SupervisedPlugin):
    """Gives a strategy the weights that another one's plugin has just tuned."""

    def __init__(self, leader: nn.Module) -> None:
        super().__init__()
        self.leader = leader

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take the weights over."""
        strategy.model.backbone.load_state_dict(self.leader.state_dict())


class _Memo:
    """Features of images that were seen, of a backbone that moves no more.

    An image is known by its sum and that of its squares; what several strategies with the same
    backbone ask for, or an evaluation asks for again, is computed once.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[float, float], torch.Tensor] = {}

    def of(self, backbone: nn.Module) -> None:
        """Let a backbone look here first."""
        plain = backbone.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            if backbone.training or torch.is_grad_enabled():
                return plain(x)
            rows = x.double().flatten(1)
            keys = [*zip(rows.sum(1).tolist(), rows.square().sum(1).tolist(), strict=True)]
            new = [i for i, key in enumerate(keys) if key not in self.known]
            if new:
                for i, feature in zip(new, plain(x[new]), strict=True):
                    self.known[keys[i]] = feature
            return torch.stack([self.known[key] for key in keys])

        backbone.forward = forward


def run(job: Job, weights: Path, cache: Path, device: str, precision: str) -> dict[str, Any]:
    """Both strategies on the same tuned backbone; A_T, A_bar and rows of each."""
    import plain
    import sets
    import tried

    start = time.perf_counter()
    if job.held_out:
        stream = sets.held_out(job.set, cache, job.order, job.seed, job.held_out)
    else:
        stream = sets.benchmark(job.set, cache, job.order)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(job.seed)
    backbone = create_backbone(BACKBONE, weights)
    machine = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    if job.probe:
        accuracy = plain.probe(backbone, stream, device)
        seconds = round(time.perf_counter() - start, 2)
        return {**asdict(job), "probe": accuracy, "device": machine, "seconds": {"all": seconds}}
    mist = None
    if job.mist is not None:
        view = {"view": {"flip": 0.0}} if job.set == "omniglot" else {}
        quiet = {"verbose": False, "keep_scores": False, "precision": precision}
        if "colours" in job.tried:
            view = {"view": tried.Colours(job.tried["colours"])}
        mist = MISTPlugin(**{**view, **quiet, "seed": job.seed, **job.mist})
        if "layerwise" in job.tried:
            tried.layerwise(mist.method, job.tried["layerwise"])
        if "cosine" in job.tried:
            tried.cosine(mist.method)
    lora = None
    if job.lora is not None:
        lora = plain.tune_lora(
            backbone, stream.train_stream[0], device, precision=precision, **job.lora
        )
    common = {"train_mb_size": 128, "eval_mb_size": 128, "device": device}
    if job.tune_on is not None:
        other = sets.benchmark(job.tune_on, cache, job.order)
        tuner = SimpleCIL(model=backbone, plugins=[mist], evaluator=_evaluator(), **common)
        tuner.train(other.train_stream[0])
        mist = None
    strategies: dict[str, Any] = {}

    def add(name: str, kind: Any, plugins: list[Any], **more: Any) -> None:
        model = backbone if not strategies else copy.deepcopy(backbone)
        strategies[name] = kind(
            model=model, plugins=plugins, evaluator=_evaluator(), **common, **more
        )

    follow = [_Follow(backbone)] if mist else []
    add("simplecil", SimpleCIL, [mist] if mist else [], criterion=Cosines())
    ranpac = {"n_random_features": RANDOM_FEATURES, "seed": job.seed}
    if job.held_out in (0, 10):
        add("ranpac", RanPAC, follow, **ranpac)
    if job.drift:
        add("simplecil+drift", SimpleCIL, follow, drift_compensation=True)
        add("ranpac+drift", RanPAC, follow, drift_compensation=True, **ranpac)

    counts = [len(e.dataset) for e in stream.test_stream]
    correct: dict[str, list[list[int]]] = {name: [] for name in strategies}
    found: dict[str, Any] = {}
    tuned = 0.0
    for t, experience in enumerate(stream.train_stream):
        for name, strategy in strategies.items():
            began = time.perf_counter()
            strategy.train(experience)
            if name == "simplecil":
                tuned += time.perf_counter() - began
            metrics = strategy.eval(stream.test_stream[: t + 1])
            row = [
                round(
                    metrics[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{i:03d}"] * counts[i]
                )
                for i in range(t + 1)
            ]
            correct[name].append(row)
            if name == "simplecil":
                found["loss"] = metrics["Loss_Stream/eval_phase/test_stream/Task000"]
        if t == 0 and (job.mist is None or job.mist["tune_on"] == "first"):
            memo = _Memo()  # nothing moves from here on, and all have the same backbone
            for strategy in strategies.values():
                memo.of(strategy.model.backbone)
    for name, rows in correct.items():
        found[name] = {**summarize(rows, counts), "correct": rows}
    if mist is not None and mist.selection is not None:
        found["selected"] = mist.selection.fraction
        found["tuning_losses"] = [round(x, 4) for x in mist.tuning_losses]
    if lora is not None:
        found["selected"] = lora
    return {
        **asdict(job),
        **found,
        "counts": counts,
        "device": machine,
        "seconds": {"all": round(time.perf_counter() - start, 2), "simplecil": round(tuned, 2)},
    }


def work(job: Job, weights: Path, cache: Path, device: str, precision: str) -> dict[str, Any]:
    """:func:`run` in a process of a pool; an error is a result too."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        return run(job, weights, cache, device, precision)
    except Exception:
        return {"failed": traceback.format_exc(), "method": job.method}


def _evaluator() -> EvaluationPlugin:
    return EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True), loss_metrics(stream=True), loggers=[]
    )
