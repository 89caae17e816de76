"""The options of the method, each said once: MISTPlugin's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from .._support.checks import check_choice, check_integer, check_rate
from ..models.defaults import PRECISIONS
from .losses import TEMPERATURE
from .views import View

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "score_on": ("first", "every"),
    "tune_on": ("first", "every"),
    "select_by": ("mi", "gradient", "magnitude", "random"),
    "ranking": ("per_tensor", "global"),
    "objective": ("mi", "cross_entropy"),
    "dynamics": ("sparse", "reference"),
    "precision": PRECISIONS,
}
_RANGES = {
    "select_rate": "(0, 1]",
    "drop_rate": "[0, 1)",
    "lr": "(0, inf)",
    "projection_lr": "(0, inf)",
    "temperature": "(0, inf)",
    "overlap_decay": "(0, 1]",
    "protect_rate": "[0, 1)",
}
_AT_LEAST = {
    "tune_epochs": 0,
    "later_epochs": 0,
    "projection_epochs": 0,
    "batch_size": 2,
    "chunk_size": 1,
}


@dataclass(frozen=True, kw_only=True)
class MISTOptions:
    """What MIST does; the arguments of :class:`~mist_avalanche.MISTPlugin`.

    Which entries may move

    Args:
        select_rate: share of the backbone's entries that may move, in (0, 1]; biases and scales of
            normalisations, always selected, are part of it.
        score_on: ``"first"``: score before the first experience only; ``"every"``: before each.
        select_by: what ranks the entries of a tensor. ``"mi"``: MI-Fisher scores, as published.
            ``"gradient"``: the size of the mean gradient. ``"magnitude"``: that of the weight.
            ``"random"``: chance.
        ranking: ``"per_tensor"`` as published: the same share of every tensor. ``"global"``: the
            highest scores of the whole backbone, wherever they are.
        overlap_decay: an entry of c earlier selections has its gradient scaled by this to the c,
            with ``score_on="every"``; always-selected tensors are exempt, as in the
            reference code.
        protect_rate: share of each tensor's entries, the most sensitive, that are frozen for good
            after an experience in which they were scored; always-selected tensors are exempt. 0
            protects none, less than one entry the maximum of each tensor. At the next score their
            sensitivity counts as zero.
        classifier: name of the module whose input are the features, when it cannot be found.

    How they are tuned

    Args:
        tune_on: before which experiences to tune: ``"every"`` as in the paper's algorithm, or
            ``"first"``; None for ``"every"``, or what the strategy's ``tune_on`` says. What a
            strategy stored of earlier features does not follow by itself; see ``docs/drift.md``.
        tune_epochs: passes of sparse tuning before an experience; 0 for none.
        later_epochs: those after the first tuning; None for as many. Fewer leave what a strategy
            stored nearer to the features it will see.
        projection_epochs: passes that train the projection alone, before the first score. The
            paper has none. From a random projection the first steps pull all features together,
            which costs classes to come; see Kumar et al., arXiv 2202.10054.
        drop_rate: probability that a selected entry rests in a step, in [0, 1).
        lr: of the backbone while tuning (the paper's for ViT-B/16).
        projection_lr: of the projection while tuning.
        objective: ``"mi"`` as published; ``"cross_entropy"`` scores and tunes on the
            cross-entropy of a linear classifier of the experience's classes.
        temperature: τ of the objective.
        dynamics: ``"sparse"``, or ``"reference"`` for the published code's, in which the rate holds
            per tensor with the always-selected entries on top, and momentum and weight decay move
            every entry.

    What they are scored and tuned on

    Args:
        batch_size: images a batch of scoring and tuning, each in two views.
        view: the second view; None for the paper's, ``{"flip": 0}`` for the paper's with another
            argument of :class:`~mist_avalanche.method.SecondView`, or ``f(batch, generator)``.
        chunk_size: views that pass through the backbone at a time, where a batch is too large for
            the memory, for a second forward pass; see
            :class:`~mist_avalanche.models.forward.Forward`.
        precision: of scoring and tuning: ``"32"`` or ``"bf16"`` (autocast; weights, loss and scores
            in float32).
        compile: use ``torch.compile`` for scoring and tuning.
        seed: of the random draws; None takes ``torch.initial_seed()``.
        keep_scores: keep the sensitivity, in the CPU's memory, after it was used.
        verbose: show progress bars.

    Raises:
        ValueError: an argument out of its range, or one that has no effect beside the others.
    """

    select_rate: float = 0.05
    drop_rate: float = 0.9
    tune_epochs: int = 20
    later_epochs: int | None = None
    projection_epochs: int = 0
    score_on: Literal["first", "every"] = "first"
    tune_on: Literal["first", "every"] | None = None
    lr: float = 1e-4
    projection_lr: float = 1e-2
    temperature: float = TEMPERATURE
    overlap_decay: float = 0.9
    protect_rate: float = 0.0
    select_by: Literal["mi", "gradient", "magnitude", "random"] = "mi"
    ranking: Literal["per_tensor", "global"] = "per_tensor"
    objective: Literal["mi", "cross_entropy"] = "mi"
    classifier: str | None = None
    dynamics: Literal["sparse", "reference"] = "sparse"
    batch_size: int = 48
    chunk_size: int | None = None
    precision: Literal["32", "bf16"] = "32"
    compile: bool = False
    view: Mapping[str, Any] | View | None = None
    keep_scores: bool = True
    seed: int | None = None
    verbose: bool = True

    def __post_init__(self) -> None:
        optional = {"later_epochs", "chunk_size", "tune_on"}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if name in _CHOICES:
                check_choice(name, value, _CHOICES[name])
            elif name in _RANGES:
                object.__setattr__(self, name, check_rate(name, value, _RANGES[name]))
            elif name in _AT_LEAST:
                object.__setattr__(self, name, check_integer(name, value, _AT_LEAST[name]))
        refuse_idle_options(vars(self))


OPTIONS = tuple(f.name for f in fields(MISTOptions))
_DEFAULTS = {f.name: f.default for f in fields(MISTOptions)}


def idle_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Which of some options are not the default ones and have no effect beside the others, and why.

    Args:
        options: values by name; what is left out is as by default.
    """
    now = {**_DEFAULTS, **options}
    again = now["later_epochs"] if now["tune_on"] != "first" else 0
    tunes = now["tune_epochs"] or again
    none = "nothing is tuned, by tune_epochs=0"
    reasons = {
        "later_epochs": now["tune_on"] == "first" and "tune_on='first' tunes once",
        "lr": not tunes and none,
        "projection_lr": not (tunes or now["projection_epochs"]) and none,
        "overlap_decay": now["score_on"] == "first" and "score_on='first' selects once",
        "temperature": now["objective"] == "cross_entropy" and "the cross-entropy has none",
    }
    return {n: why for n, why in reasons.items() if why and now[n] != _DEFAULTS[n]}


def refuse_idle_options(options: Mapping[str, Any]) -> None:
    """ValueError where one of some options has no effect beside the others."""
    for name, why in idle_options(options).items():
        raise ValueError(f"`{name}` has no effect: {why}. Leave it away.")


def merged_options(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options over defaults; a default that these leave without effect goes."""
    merged = {**defaults, **given}
    idle = {n for n in idle_options(merged) if n in defaults and merged[n] == defaults[n]}
    return {n: value for n, value in merged.items() if n not in idle}
