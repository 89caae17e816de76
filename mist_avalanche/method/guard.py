"""While a strategy trains, nothing but the kept entries of the backbone moves.

What must stay is compared with a copy and put back, whoever moved it: the strategy's optimizer, a
second one, a plugin that averages weights or unfreezes a layer. Where that is not possible there is
an error with the parameter's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .._support.states import as_integers
from ..models.features import before_classifier
from .gradients import SelectedEntries, keep_entries, masked_gradient

_NONE: Mapping[str, Tensor] = MappingProxyType({})


class StepGuard:
    """Lets a strategy move the kept entries only.

    After each step every other entry is put back, bit for bit, from a copy. So it holds for any
    optimizer, its state, its weight decay, and any gradient. What moves between steps is found by
    the parameters' versions before the next one, and by its bits in :meth:`check`.

    Args:
        entries: the selected entries.
        drop_rate: probability that a selected entry rests in a step.
        generator: of the draws, on the parameters' device.
        decay: (K,) factor on the selected gradients, or None.
        others: parameters without a selected entry, by name.
        classifier: name of the module before which all that is.
        restore: False lets everything move and counts only.
    """

    def __init__(
        self,
        entries: SelectedEntries,
        drop_rate: float,
        generator: torch.Generator,
        decay: Tensor | None = None,
        *,
        others: Mapping[str, Tensor] = _NONE,
        classifier: str = "",
        restore: bool = True,
    ) -> None:
        self.restore, self.classifier = restore, classifier
        self.training = True  # until :meth:`detach`
        self.resting = False  # from the first evaluation after it to the next experience
        self.entries = entries
        self.drop_rate = drop_rate
        self.generator = generator
        self.decay = decay
        self.changed: Tensor | None = None  # number of entries that the last step changed
        self.parameters = [*entries.parameters, *others.values()]
        self._names = [*entries.names, *others]
        self._copy = [p.detach().clone() for p in self.parameters]  # as everything may be
        self._versions = self._now()
        self._keep: Tensor | None = None
        self._start: Tensor | None = None  # (K,) before the step
        self._scaled = self._settled = self._updating = False
        self._handles: list[Any] = []
        self._optimizer: object = None
        self._followed: list[Any] = []
        self._told: set[str] = set()

    @property
    def keep(self) -> Tensor:
        """(K,) the entries that the coming step may move: one draw a step."""
        if self._keep is None:
            self._keep = keep_entries(len(self.entries), self.drop_rate, self.generator)
        return self._keep

    # ---- A step ------------------------------------------------------------------------------

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Leave, in ``.grad`` of the parameters, only the kept entries' gradients.

        Called again while gradients accumulate, it keeps the same entries; overlap decay waits for
        the step, so that it scales every gradient once.
        """
        self._leave(None)

    def _leave(self, decay: Tensor | None) -> None:
        if self.entries.everything and self.drop_rate == 0 and decay is None:
            return
        gradients = [
            None if p.grad is None or p.grad.is_sparse else p.grad for p in self.entries.parameters
        ]
        kept = masked_gradient(self.entries.gather(gradients), self.keep, decay)
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
        self.entries.scatter(kept, gradients)

    def before_update(self, model: nn.Module, optimizer: Any) -> None:
        """Guard all that happens until :meth:`after_update`, whatever optimizers step there."""
        self.follow(model, optimizer)
        self.attach(optimizer)
        self._begin()
        self._updating = True
        if not self.hooks_into(optimizer):
            self.before_step()

    def after_update(self) -> None:
        """End the update; put back what moved after the attached optimizer's step."""
        if self._updating:
            self._updating = False
            self.after_step()

    @torch.no_grad()
    def before_step(self) -> None:
        """Scale the gradients of earlier selections, and remember the selected entries."""
        self._begin()
        if self.decay is not None and not self._scaled:
            self._leave(self.decay)
            self._scaled = True

    @torch.no_grad()
    def _begin(self) -> None:
        if self._start is not None:
            return
        if self._now() != self._versions:
            self.check()
        n = len(self.entries.parameters)
        rest = zip(self._names[n:], self.parameters[n:], strict=True)
        self._tell(
            [name for name, p in rest if p.grad is not None],
            "not scored (frozen, or used in training mode alone): what is not selected stays as it "
            "is. Let the backbone require gradients before the first experience",
        )
        self._start = self.entries.gather(self.entries.parameters)
        if self.restore:
            self.entries.scatter(self._start, self._copy[:n])
        else:
            torch._foreach_copy_(self._copy, [p.detach() for p in self.parameters])

    @torch.no_grad()
    def after_step(self) -> None:
        """Put every entry back that was not to move, bit for bit, and count the others."""
        if self._start is None:
            return
        now = self._now()
        parameters = [p.detach() for p in self.parameters]
        if self._settled and now == self._versions:
            pass  # nothing since the attached optimizer's step
        elif not self.restore:
            moved = [(p != b).sum() for p, b in zip(parameters, self._copy, strict=True)]
            self.changed = torch.stack(moved).sum()
        elif now != self._versions or any(p.requires_grad for p in self.parameters):
            n = len(self.entries.parameters)
            after = self.entries.gather(self.entries.parameters)
            kept = torch.where(self.keep, after, self._start)
            put_back = [
                i
                for i, p in enumerate(self.parameters)
                if (p.requires_grad or now[i] != self._versions[i])
                and not (i < n and self.entries.everything)
            ]
            if put_back:
                torch._foreach_copy_(
                    [parameters[i] for i in put_back], [self._copy[i] for i in put_back]
                )
            self.entries.scatter(kept, self.entries.parameters)
            self.entries.scatter(kept, self._copy[:n])
            self.changed = (kept != self._start).sum()
        self._versions, self._settled = self._now(), True
        if not self._updating:
            self._keep = self._start = None
            self._scaled = self._settled = False

    # ---- Between steps -----------------------------------------------------------------------

    def _now(self) -> list[int]:
        """Versions of the parameters, which changes in place count up, those of ``.data`` not."""
        return [p._version for p in self.parameters]

    @torch.no_grad()
    def check(self) -> None:
        """Put back what has moved though it was not selected, bit for bit, with a warning.

        After the training the model is the user's, who may give it another shape, dtype or device.

        Raises:
            ValueError: a parameter has another one while the strategy trains.
        """
        if not self.restore:
            return
        for name, p, kept in zip(self._names, self.parameters, self._copy, strict=True):
            if (p.shape, p.dtype, p.device) != (kept.shape, kept.dtype, kept.device):
                if not self.training:
                    return
                self._refuse(name, "has another shape, dtype or device than when it was scored")
        n = len(self.entries.parameters)
        self.entries.scatter(self.entries.gather(self.entries.parameters), self._copy[:n])
        rows = zip(self._names, self.parameters, self._copy, strict=True)
        moved = [row for row in rows if not torch.equal(*map(as_integers, row[1:]))]
        for _, p, kept in moved:
            p.copy_(kept)
        self._tell(
            [name for name, *_ in moved],
            "changed outside of the strategy's steps: what is not selected was put back",
        )
        self._versions = self._now()

    def follow(self, model: nn.Module, optimizer: Any = None) -> None:
        """Guard the parameters that the model and its optimizer have by now.

        Cheap where they are those of the last call: no module is looked at then.

        Raises:
            ValueError: the model has a parameter before its classifier that was not there before.
        """
        groups = getattr(optimizer, "param_groups", ())
        followed = [model, *(p for group in groups for p in group["params"])]
        same = len(followed) == len(self._followed)
        if same and all(a is b for a, b in zip(followed, self._followed, strict=True)):
            return
        self._followed = followed
        try:
            found = before_classifier(model, self.classifier)
        except AttributeError:
            self._refuse(self.classifier, "is gone from the model")
        self._rebind(found)

    def verify(self, model: nn.Module) -> None:
        """:meth:`follow` and :meth:`check`, whatever the last call saw."""
        self._followed = []
        self.follow(model)
        self.check()

    def _rebind(self, found: Mapping[str, Tensor]) -> None:
        if not self.restore:
            return
        known, replaced = {id(p) for p in self.parameters}, False
        for name, p in found.items():
            if id(p) in known:
                continue
            if name not in self._names:
                self._refuse(name, "was not there when it was scored")
            i = self._names.index(name)
            self.parameters[i], replaced = p, True
            if i < len(self.entries.parameters):
                self.entries.parameters[i] = p
        if replaced:
            self.check()

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise ValueError(
            f"The backbone has changed in training: {name} {why}, and MIST cannot keep what is not "
            "selected as it was. Change the model before the experience, with "
            "MISTPlugin(score_on='every'), or give MISTPlugin(dynamics='reference'), which lets "
            "everything move."
        )

    def _tell(self, names: list[str], what: str) -> None:
        """Warn of parameters, once of each."""
        names = [name for name in names if name not in self._told and self.restore]
        if names:
            self._told.update(names)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            was = "was" if len(names) == 1 else "were"
            warnings.warn(f"MIST: {', '.join(names[:3])}{more} {was} {what}.", stacklevel=3)

    def attach(self, optimizer: Any) -> None:
        """Guard every later ``optimizer.step()``; attaching twice does nothing."""
        if optimizer is None or self._optimizer is optimizer:
            return
        self._let_go()
        self._optimizer = optimizer
        if self.hooks_into(optimizer):
            self._handles = [
                optimizer.register_step_pre_hook(lambda *_: self.before_step()),
                optimizer.register_step_post_hook(lambda *_: self.after_step()),
            ]

    @staticmethod
    def hooks_into(optimizer: Any) -> bool:
        """False for optimizers that are not torch's and so call no step hooks."""
        return getattr(type(optimizer).step, "hooked", False) and hasattr(
            optimizer, "_optimizer_step_pre_hooks"
        )

    def detach(self) -> None:
        """Let go of the optimizer: the training is over."""
        self._let_go()
        self.training = False

    def _let_go(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer = [], None
