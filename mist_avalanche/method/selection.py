"""Which entries of the backbone may move (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .entries import Entries

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def top_entries(scores: Tensor, rate: float) -> Tensor:
    """The entries at or above the (1 - rate) quantile of the scores, without its ties.

    That is ⌊rate (n - 1)⌋ + 1 of n entries: all for rate 1, the single maximum for rate 0. Equal
    scores never make it more, and an entry without any sensitivity is not selected.

    Args:
        scores: any shape, not negative.
        rate: in [0, 1].

    Returns:
        Bool mask of the scores' shape.
    """
    if rate >= 1:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    # The guard keeps 0.1 * 30 from falling below 3 by a rounding error.
    k = min(len(flat), math.floor(rate * (len(flat) - 1) + 1e-9) + 1)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.topk(k, sorted=False).indices] = True
    return (mask & (flat > 0)).view_as(scores)


def rate_within_budget(sizes: Mapping[str, int], always: Collection[str], budget: float) -> float:
    """The rate per tensor at which the whole selection stays within ``budget`` of all entries.

    Solves N_always + Σ_t (rate (n_t - 1) + 1) = budget · N over the other tensors t. It may be
    negative: then not even the always-selected entries and one entry a tensor fit.
    """
    others = [n for name, n in sizes.items() if name not in always]
    room = budget * sum(sizes.values()) - sum(sizes.values()) + sum(others) - len(others)
    movable = sum(others) - len(others)
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
) -> Selection:
    """Select the most sensitive entries.

    Args:
        scores: name to scores.
        select_rate: share of entries that may move. 1 selects everything.
        always: names selected whole (biases, scales of normalisations).
        within_budget: the share bounds the whole selection, always-selected entries included; where
            they alone would exceed it, they compete like all others. False applies the rate to
            every other tensor and adds ``always`` on top, as the reference code does.
        ranking: ``"per_tensor"``: the same share of every tensor; ``"global"``: the highest scores
            of all tensors together, the same number in all.
    """
    always = frozenset(always) & scores.keys()
    rate = select_rate
    if within_budget and select_rate < 1:
        sizes = {name: score.numel() for name, score in scores.items()}
        rate = rate_within_budget(sizes, always, select_rate)
        if rate < 0:
            always = frozenset()
            return Selection(_top_overall(scores, select_rate), always)
    others = {name: score for name, score in scores.items() if name not in always}
    if ranking == "global" and others:
        tops = _top_overall(others, rate)
    else:
        tops = {name: top_entries(score, rate) for name, score in others.items()}
    masks = {
        name: torch.ones_like(score, dtype=torch.bool) if name in always else tops[name]
        for name, score in scores.items()
    }
    return Selection(masks, always)


def _top_overall(scores: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
    """At most ``rate`` of all entries together, ranked over all tensors."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    k = math.floor(rate * len(flat))
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.topk(k, sorted=False).indices] = True
    parts = torch.split(mask & (flat > 0), [score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for part, (name, score) in zip(parts, scores.items(), strict=True)
    }


def random_scores(scores: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Uniform draws in place of the scores, never zero: what a random selection is made from."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(score.shape, generator=generator).to(score.device) + 1e-3
        for name, score in scores.items()
    }


class LayerShare(NamedTuple):
    """One parameter's part in a selection: entries selected and in all."""

    name: str
    selected: int
    total: int
    always: bool


class Selection:
    """Entries of the backbone that may move.

    Args:
        masks: parameter name to bool tensor, True where the entry may move.
        always: names that were selected whole whatever their scores.

    Attributes:
        entries: name to the selected entries, 4 bytes each.
        always: as given.
    """

    def __init__(self, masks: Mapping[str, Tensor], always: frozenset[str] = frozenset()) -> None:
        self.entries = {name: Entries.of(mask) for name, mask in masks.items()}
        self.always = always

    def state_dict(self) -> dict[str, Any]:
        """Entries by name, and which names were selected whole."""
        entries = {name: entries.state_dict() for name, entries in self.entries.items()}
        return {"entries": entries, "always": sorted(self.always)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Selection:
        """The selection of a :meth:`state_dict`."""
        made = cls({}, frozenset(state["always"]))
        made.entries = {k: Entries.from_state_dict(v) for k, v in state["entries"].items()}
        return made

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name to bool tensor, True where the entry may move; made anew at each call."""
        return {name: entries.mask() for name, entries in self.entries.items()}

    @property
    def selected(self) -> int:
        """Number of selected entries."""
        return sum(map(len, self.entries.values()))

    @property
    def total(self) -> int:
        """Number of backbone entries."""
        return sum(entries.shape.numel() for entries in self.entries.values())

    @property
    def fraction(self) -> float:
        """Selected / total."""
        return self.selected / self.total

    def overlap(self, other: Selection) -> float:
        """The share of these entries that another selection has too."""
        both = sum(
            int((entries.mask() & other.entries[name].mask()).sum())
            for name, entries in self.entries.items()
            if name in other.entries and other.entries[name].shape == entries.shape
        )
        return both / max(1, self.selected)

    def plot(self, title: str = "") -> Figure:
        """The shares as a picture (matplotlib), by block of the backbone and by kind of tensor."""
        from .layers_figure import selection_figure

        return selection_figure(self.rows(), title)

    def rows(self) -> list[LayerShare]:
        """The share of every parameter, in the model's order."""
        return [
            LayerShare(name, len(entries), entries.shape.numel(), name in self.always)
            for name, entries in self.entries.items()
        ]

    def table(self) -> str:
        """The shares as text, a line a parameter and the sum."""
        return share_table(self.rows())


def share_table(rows: Sequence[LayerShare], what: str = "selected") -> str:
    """Shares as text, a line a parameter and the sum; ``what`` heads the entries that count."""
    width = max([9, *(len(row.name) for row in rows)])
    lines = [f"{'parameter':<{width}}  {what:>10}  {'of':>10}  {'share':>7}"]
    lines += [
        f"{r.name:<{width}}  {r.selected:>10}  {r.total:>10}  {r.selected / r.total:>7.2%}"
        + ("  always" if r.always else "")
        for r in rows
    ]
    selected, total = sum(r.selected for r in rows), sum(r.total for r in rows)
    lines.append(f"{'all':<{width}}  {selected:>10}  {total:>10}  {selected / total:>7.2%}")
    return "\n".join(lines)
