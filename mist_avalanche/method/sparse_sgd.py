"""SGD that moves few selected entries per step, as a ``torch.optim.Optimizer``."""

import math
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from .flat import FlatParameters, flatten

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


class SparseSGD(torch.optim.Optimizer):
    """SGD with momentum on selected entries, most of which are dropped in each step.

    For an entry that is kept in a step: v ← 0.9 v + c g + 5e-4 θ, θ ← θ - lr v, with c its factor
    in ``scales``. An entry that is not selected, is dropped in this step, or has a gradient that is
    not finite keeps its weight and its momentum, bit for bit. The parameters become views of one
    vector, permanently or until the context ``own_memory`` of ``method/flat.py`` ends.

    Args:
        params: parameters, or groups of them. A group may have ``masks`` and ``scales``, one per
            parameter: bool tensors of its shape, True where an entry is selected (None: all), and
            factors on its gradient (None: 1).
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: weight decay factor.
        drop_rate: probability that a selected entry is dropped in a step, in [0, 1).
        generator: source of the random draws, on the parameters' device; None for torch's default.

    Attributes:
        changed: number of entries in groups with ``masks`` that the last step changed (scalar).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = MOMENTUM,
        weight_decay: float = WEIGHT_DECAY,
        drop_rate: float = 0.9,
        generator: torch.Generator | None = None,
    ) -> None:
        self.generator = generator
        self.changed = torch.tensor(0)
        self._flats: list[list[FlatParameters]] = []  # one list per group
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(
            params, {**defaults, "drop_rate": drop_rate, "masks": None, "scales": None}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, which may have ``masks`` and ``scales``."""
        super().add_param_group(param_group)
        columns = (param_group[name] or repeat(None) for name in ("params", "masks", "scales"))
        self._flats.append(flatten(zip(*columns, strict=False)))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        changed = []
        for group, flats in zip(self.param_groups, self._flats, strict=True):
            for flat in flats:
                gradients = flat.gradients(joined=False)
                if gradients is None:
                    continue
                state = self.state[flat.parameters[0]]
                theta = flat.weights().take(flat.entries)  # (K,)
                gradient = gradients.take(flat.entries) * flat.scale
                velocity = state["velocity"] if state else torch.zeros_like(theta)
                keep = draw_kept(len(theta), group["drop_rate"], theta.device, self.generator)
                keep &= gradient.abs() < math.inf  # False for NaN, too
                v = group["momentum"] * velocity + gradient + group["weight_decay"] * theta
                state["velocity"] = torch.where(keep, v, velocity)
                moved = torch.where(keep, theta - group["lr"] * v, theta)
                flat.weights().put_(flat.entries, moved)
                torch.autograd.graph.increment_version(flat.parameters)
                if group["masks"] is not None:
                    changed.append((moved != theta).sum())
        self.changed = sum(changed, torch.tensor(0))
        return loss


class ReferenceSGD(torch.optim.SGD):
    """The published code's step: gradients are masked and dropped, then SGD moves every entry.

    Weight decay and momentum act on all weights, and the projection's gradients are dropped like
    the backbone's. Arguments and attributes are those of :class:`SparseSGD`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        drop_rate: float = 0.9,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(params, lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.drop_rate, self.generator = drop_rate, generator
        self.changed = torch.tensor(0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        before = []
        for group in self.param_groups:
            masks = group.get("masks") or [None] * len(group["params"])
            scales = group.get("scales") or [None] * len(group["params"])
            for p, mask, scale in zip(group["params"], masks, scales, strict=True):
                if p.grad is None and mask is None:
                    continue
                gradient = torch.zeros_like(p) if p.grad is None else p.grad
                keep = draw_kept(p.numel(), self.drop_rate, p.device, self.generator).view(p.shape)
                keep &= gradient.isfinite()
                if mask is not None:
                    keep &= mask
                    before.append((p, p.clone()))
                p.grad = torch.where(keep, gradient if scale is None else gradient * scale, 0)
        loss: float | None = super().step(closure)
        if before:
            self.changed = torch.stack([(p != b).sum() for p, b in before]).sum()
        return loss


def draw_kept(
    n: int, drop_rate: float, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Bool tensor (n,), each entry True with probability 1 - drop_rate."""
    if drop_rate == 0:
        return torch.ones(n, dtype=torch.bool, device=device)
    return torch.rand(n, device=device, generator=generator) >= drop_rate
