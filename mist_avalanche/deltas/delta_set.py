"""Several deltas of one base in memory, one of them in the model at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from .._support.states import Model, as_integers, fingerprint, layout, tensors_of, unique
from .file import read_delta
from .patches import Patch, digests_of, patches_of, write_patches

_SAMPLE = 64  # entries of a tensor that are looked at before a switch
_Mark = tuple[int, int, list[int]]  # address, version and sampled entries of a tensor


class DeltaSet:
    """Deltas of one base, between which a model switches in place.

    All is verified here, once: the base, every delta, and what each leads to. A switch then writes
    the entries that differ and hashes nothing. It first asks torch whether anything else has
    written to the model, looks at a few entries of every tensor, because torch does not count what
    fused optimizers, ``.data`` and numpy write, and hashes the model only where something differs.
    In memory an entry costs 8 bytes of index and twice its own.

    Args:
        model: the base, or its state dict; it stays the base until the first switch.
        deltas: paths by name, or paths, whose names without ending then name the deltas.

    Raises:
        OSError: a file does not exist or cannot be read.
        ValueError: a file is not a delta of this base; two have one name.

    Example:
        >>> deltas = DeltaSet(model, ["letters.safetensors", "birds.safetensors"])
        >>> deltas.switch("birds")
        >>> deltas.switch(None)  # the base
    """

    def __init__(
        self, model: Model, deltas: Mapping[str, str | Path] | Sequence[str | Path]
    ) -> None:
        if not isinstance(deltas, Mapping):
            names = [Path(path).stem for path in deltas]
            if len({*names}) < len(names):
                raise ValueError(f"Expected a name of its own for each delta, got {names}.")
            deltas = dict(zip(names, deltas, strict=True))
        self.model = model
        self.active: str | None = None  # the delta that is in the model; None: the base
        self._tensors = unique(tensors_of(model))
        self._layouts = {name: layout(tensor) for name, tensor in self._tensors.items()}
        digests = digests_of(self._tensors)
        self._fingerprints: dict[str | None, str] = {None: fingerprint(self._layouts, digests)}
        self._patches: dict[str, list[Patch]] = {}
        for name, path in deltas.items():
            delta = read_delta(path)
            self._patches[name] = patches_of(delta, path, self._tensors, digests)
            self._fingerprints[name] = delta.adapted
        self._marks = self._marks_now()

    def __len__(self) -> int:
        """Number of deltas."""
        return len(self._patches)

    def __iter__(self) -> Iterator[str]:
        """Names, in the order given."""
        return iter(self._patches)

    def switch(self, name: str | None) -> None:
        """Make the model what the delta leads to, bit by bit; None makes it the base.

        Raises:
            ValueError: there is no such delta; something else changed the model. The model is as
                it was.
        """
        if name is not None and name not in self._patches:
            raise ValueError(f"There is no delta {name!r}. There are {', '.join(self) or 'none'}.")
        self._tensors = unique(tensors_of(self.model))
        if self._marks_now() != self._marks:
            self.verify()
        if name == self.active:
            return
        patches = [] if self.active is None else [p.inverse() for p in self._patches[self.active]]
        patches += [] if name is None else self._patches[name]
        try:  # tensor by tensor, so that the second write finds it in the cache
            write_patches(self._tensors, sorted(patches, key=lambda patch: patch.name))
            self.active = name
        finally:
            self._marks = self._marks_now()

    def verify(self) -> None:
        """Hash the model: it is what ``active`` says.

        Raises:
            ValueError: it is not.
        """
        self._tensors = unique(tensors_of(self.model))
        layouts = {name: layout(tensor) for name, tensor in self._tensors.items()}
        found = fingerprint(layouts, digests_of(self._tensors))
        if found != self._fingerprints[self.active]:
            what = "the base" if self.active is None else f"delta {self.active!r}"
            raise ValueError(
                f"The model is no longer {what}: something else changed it. Its fingerprint is "
                f"{found}, not {self._fingerprints[self.active]}. Save what it is with save_delta, "
                "or load the base again and make a new DeltaSet."
            )
        for name, patches in self._patches.items():  # the model may be on another device now
            self._patches[name] = [p.to(self._tensors[p.name].device) for p in patches]
        self._marks = self._marks_now()

    def _marks_now(self) -> dict[str, _Mark]:
        marks = {}
        for name, tensor in self._tensors.items():
            n = tensor.numel()
            step = max(1, n // _SAMPLE)
            sample = as_integers(tensor).take(torch.arange(0, n, step, device=tensor.device))
            marks[name] = (tensor.data_ptr(), tensor._version, sample.tolist())
        return marks

    def changed(self, name: str) -> int:
        """Number of entries that a delta changes."""
        return sum(len(patch.after) for patch in self._patches[name])

    def overlap(self, name: str, other: str) -> float:
        """The share of one delta's entries that another one changes too."""
        theirs = {patch.name: patch for patch in self._patches[other]}
        both = 0
        for patch in self._patches[name]:
            if patch.name not in theirs:
                continue
            index = theirs[patch.name].index
            if index is None or patch.index is None:
                both += min(len(patch.after), len(theirs[patch.name].after))
                continue
            mask = torch.zeros(
                self._tensors[patch.name].numel(), dtype=torch.bool, device=index.device
            )
            mask[index] = True
            both += int(mask[patch.index].sum())
        return both / max(1, self.changed(name))

    def table(self) -> str:
        """The deltas as text: entries changed, their share, and the overlap with each other one.

        A row's overlaps are the shares of its entries that the column's delta changes too.
        """
        total = sum(tensor.numel() for tensor in self._tensors.values())
        width = max([5, *map(len, self)])
        columns = [max(7, len(name)) for name in self]
        lines = [
            f"{'delta':<{width}}  {'changed':>10}  {'share':>7}"
            + "".join(f"  {name:>{w}}" for name, w in zip(self, columns, strict=True))
        ]
        for name in self:
            changed = self.changed(name)
            lines.append(
                f"{name:<{width}}  {changed:>10}  {changed / max(1, total):>7.2%}"
                + "".join(
                    f"  {self.overlap(name, other):>{w}.2%}"
                    for other, w in zip(self, columns, strict=True)
                )
            )
        return "\n".join(lines)
