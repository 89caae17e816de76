"""Which entries of the backbone may move: the current selection and earlier ones."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor

Masks = dict[str, Tensor]  # parameter name -> bool tensor of the parameter's shape


def top_entries(scores: Tensor, rate: float) -> Tensor:
    """Entries at or above the (1 - rate) quantile of the scores, with ties broken.

    That is ⌊rate (n - 1)⌋ + 1 of n entries: all for rate 1, the single maximum for rate 0. Ties
    never increase this number, and entries with a score of zero are not selected.

    Args:
        scores: any shape, not negative.
        rate: in [0, 1].

    Returns:
        Bool mask of the scores' shape.
    """
    if rate >= 1:
        return torch.ones_like(scores, dtype=torch.bool)
    n = scores.numel()
    k = math.floor(rate * (n - 1) + 1e-9) + 1  # 0.1 * 30 must not fall below 3 by rounding
    return _largest(scores.flatten(), min(n, k)).view_as(scores)


def _largest(scores: Tensor, k: int) -> Tensor:
    """Bool (n,) of the k largest scores (n,) that are not zero."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[scores.topk(k, sorted=False).indices] = True
    return mask & (scores > 0)


def rate_within_budget(sizes: Mapping[str, int], always: Collection[str], budget: float) -> float:
    """The rate per tensor at which the whole selection stays within ``budget`` of all entries.

    Solves N_always + Σ_t (rate (n_t - 1) + 1) = budget · N over the other tensors t. If the rate is
    negative, not even the always-selected entries plus one entry per tensor fit.
    """
    others = [n for name, n in sizes.items() if name not in always]
    total, movable = sum(sizes.values()), sum(others) - len(others)
    room = budget * total - (total - sum(others)) - len(others)
    if movable <= 0:
        return 1.0 if room >= 0 else -1.0
    return min(1.0, room / movable)


def select(
    scores: Mapping[str, Tensor],
    select_rate: float,
    always: Collection[str] = (),
    *,
    within_budget: bool = True,
    ranking: str = "per_tensor",
) -> "Selection":
    """Select the most sensitive entries.

    Args:
        scores: scores by parameter name.
        select_rate: share of entries that may move; 1 selects everything.
        always: names of parameters that are selected as a whole (biases, normalisation weights).
        within_budget: whether the share bounds the whole selection, including always-selected
            entries; if these alone exceed it, they are ranked like all others. False applies the
            rate to every other tensor and adds ``always`` on top, as the published code does.
        ranking: ``"per_tensor"``: the same share of every tensor; ``"global"``: the highest scores
            of all tensors together.
    """
    always = frozenset(always) & scores.keys()
    rate = select_rate
    if within_budget and select_rate < 1:
        sizes = {name: score.numel() for name, score in scores.items()}
        rate = rate_within_budget(sizes, always, select_rate)
        if rate < 0:
            return Selection(_top_overall(scores, select_rate))
    others = {name: score for name, score in scores.items() if name not in always}
    if ranking == "global" and others:
        tops = _top_overall(others, rate)
    else:
        tops = {name: top_entries(score, rate) for name, score in others.items()}
    whole = {name: torch.ones_like(scores[name], dtype=torch.bool) for name in always}
    return Selection({name: (whole | tops)[name] for name in scores}, always)


def _top_overall(scores: Mapping[str, Tensor], rate: float) -> Masks:
    """At most ``rate`` of all entries, ranked over all tensors together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    mask = _largest(flat, math.floor(rate * len(flat)))
    parts = torch.split(mask, [score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for part, (name, score) in zip(parts, scores.items(), strict=True)
    }


def random_scores(scores: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Uniform random scores, never zero, for a random selection."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(score.shape, generator=generator).to(score.device) + 1e-3
        for name, score in scores.items()
    }


class LayerShare(NamedTuple):
    """One parameter's part of a selection: number of selected entries and of all entries."""

    name: str
    selected: int
    total: int
    always: bool


class Selection:
    """Entries of the backbone that may move.

    Args:
        masks: parameter name to a bool tensor of its shape, True where an entry may move.
        always: names of parameters that were selected as a whole, regardless of their scores.
    """

    def __init__(self, masks: Mapping[str, Tensor], always: Collection[str] = ()) -> None:
        self.masks: Masks = dict(masks)
        self.always = frozenset(always)

    @property
    def selected(self) -> int:
        """Number of selected entries."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Number of backbone entries."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def fraction(self) -> float:
        """Selected / total."""
        return self.selected / self.total

    def overlap(self, other: "Selection") -> float:
        """Share of these entries that are also in another selection of the same backbone."""
        both = (mask & other.masks[name] for name, mask in self.masks.items())
        return sum(int(mask.sum()) for mask in both) / max(1, self.selected)

    def rows(self) -> list[LayerShare]:
        """The share of every parameter, in the order of the model."""
        return [
            LayerShare(name, int(mask.sum()), mask.numel(), name in self.always)
            for name, mask in self.masks.items()
        ]

    def table(self) -> str:
        """The shares as text: one line per parameter, and the total."""
        return share_table(self.rows())

    def state_dict(self) -> dict[str, Any]:
        """Masks, and names of the parameters that were selected as a whole."""
        return {"masks": self.masks, "always": sorted(self.always)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Selection":
        """Create a selection from a :meth:`state_dict`."""
        return cls(state["masks"], state["always"])


class SelectionHistory:
    """Counts how often each entry was selected before, and keeps the protected entries.

    Tensors that are always selected are neither counted nor protected, as in the published code.

    Attributes:
        counts: by name, the number (uint8) of earlier selections of every entry.
        protected: by name, the entries (bool) that no longer move.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}
        self.protected: Masks = {}

    def record(self, selection: Selection) -> None:
        """Count a selection that a new one replaces."""
        for name in selection.masks.keys() - selection.always:
            mask = selection.masks[name].to(torch.uint8)
            self.counts[name] = self.counts[name] + mask if name in self.counts else mask

    def protect(self, masks: Mapping[str, Tensor]) -> None:
        """Freeze entries permanently."""
        for name, mask in masks.items():
            self.protected[name] = mask | self.protected[name] if name in self.protected else mask

    def movable(self, selection: Selection) -> Masks:
        """The entries that are selected and not protected."""
        return {
            name: mask & ~self.protected[name] if name in self.protected else mask
            for name, mask in selection.masks.items()
        }

    def scales(self, factor: float) -> dict[str, Tensor]:
        """Factors on the gradients, by name: ``factor ** (number of earlier selections)``."""
        if factor == 1:
            return {}
        return {name: factor ** counts.float() for name, counts in self.counts.items()}


def most_sensitive(scores: Mapping[str, Tensor], rate: float, always: Collection[str]) -> Masks:
    """The top ``rate`` of each tensor's entries by score, at least one; none of ``always``."""
    return {n: top_entries(score, rate) for n, score in scores.items() if n not in always}


def share_table(rows: Sequence[LayerShare]) -> str:
    """Shares as text: one line per parameter, and the total."""
    whole = LayerShare("all", sum(r.selected for r in rows), sum(r.total for r in rows), False)
    cells = [
        (r.name, r.selected, r.total, f"{r.selected / r.total:.2%}", "always" * r.always)
        for r in (*rows, whole)
    ]
    heads = ("parameter", "selected", "of", "share", "")
    return tabulate(cells, heads, "plain", colalign=("left", "right", "right", "right", "left"))
