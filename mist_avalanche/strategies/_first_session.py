"""First-session adaptation: what a backbone learns of the first experience, and of no later one."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from .._support.checks import classes_of
from .._support.distributed import check_alone
from .._support.memory_use import advice
from .._support.randomness import isolated_rng
from ..models.adapters import ADAPTERS, AdaptedBackbone, FineTuned
from ..models.cosine_head import CosineHead
from ..models.features import in_mode
from ..models.heads import BackboneWithHead, PrototypeHead
from ..models.snapshot import Snapshot
from ._computed import ComputedHeadStrategy
from ._loop import LossOfModel
from ._session import FirstSession
from .feature_cache import bits_of


class FirstSessionStrategy(LossOfModel, ComputedHeadStrategy, ABC):
    """Adapts the backbone to the first experience, and then computes a head from frozen features.

    The first experience has the session's epochs, in Avalanche's loop, over images ``mb_x`` under
    the training transform, with a cosine classifier of its classes that is thrown away; then, as
    every experience, one over features. Plugins that tune the backbone do so before. In an online
    stream the first part is the first experience.

    Args:
        session: None for no adaptation.
        both: features are [plain, adapted]; or the adapted alone.
        kwargs: as for :class:`~mist_avalanche.strategies._computed.ComputedHeadStrategy`.
    """

    optimizer: Any
    train_mb_size: int
    train_epochs: int

    def __init__(
        self,
        *,
        model: nn.Module,
        session: FirstSession | None,
        both: bool,
        precision: str,
        compile: bool,
        **kwargs: Any,
    ) -> None:
        self.session = session
        self.adapted = False
        self._classifier: CosineHead | None = None  # while the session goes on
        self._schedule: Any = None
        if session is not None:
            if compile:
                raise ValueError(
                    "torch.compile does not see what the first session attaches to a backbone. "
                    "Leave `compile` away (--compile), or the first session."
                )
            session.make(model)  # which refuses a backbone that it does not fit
            self.modules_in_state = ("head", "adapter")
            self.masks_steps = False  # the backbone is frozen as a whole, or trained as a whole

            def build(backbone: nn.Module, head: nn.Module) -> BackboneWithHead:
                return AdaptedBackbone(backbone, head, both=both, precision=precision)

            kwargs["build"] = build
        super().__init__(model=model, precision=precision, compile=compile, **kwargs)
        if session is not None:
            # MIST sees the backbone alone, where the head's features are of twice its width too.
            head = PrototypeHead() if both else self.head
            self.model_to_tune = BackboneWithHead(model, head)

    def state_dict(self) -> dict[str, Any]:
        """The head with what it has seen, and what adapts the backbone; not the backbone."""
        state = super().state_dict()
        if self.session is None:
            return state
        adapter = self.model.adapter
        kept = None
        if adapter is not None:
            kind = type(adapter).__name__
            kept = {"kind": kind, "settings": adapter.settings, "state": adapter.state_dict()}
        return {**state, "adapted": self.adapted, "adapter": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy with the same arguments."""
        super().load_state_dict(state)
        if self.session is None:
            return
        self.adapted, kept, self.model.adapter = bool(state["adapted"]), state["adapter"], None
        if kept is not None:
            adapter = ADAPTERS[kept["kind"]](self.model.backbone, **kept["settings"])
            adapter.load_state_dict(kept["state"])
            self.model.adapter = adapter.requires_grad_(False)

    # ---- The first experience ----------------------------------------------------------------

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        """The first session where it is due; then the head."""
        if self.session is not None and not self.adapted:
            with advice("a batch of images", "Lower the session's train_mb_size."):
                self._adapt(self.session, experience, eval_streams, **kwargs)
        super()._train_exp(experience, eval_streams, **kwargs)

    def _adapt(
        self, session: FirstSession, experience: Any, eval_streams: Any, **kwargs: Any
    ) -> None:
        """Train an adapter and a cosine classifier on the experience; keep the adapter."""
        check_alone(f"{type(self).__name__}'s first session")
        backbone, adapter = self.model.backbone, session.make(self.model.backbone)
        trainable = [p for p in backbone.parameters() if p.requires_grad]
        before = Snapshot(backbone) if adapter is None and self.model.both else None
        ordinary = self.dataloader, self.train_mb_size, self.train_epochs
        self.dataloader = session.batches(experience.dataset, self.device, **kwargs)
        self.train_mb_size, self.train_epochs = session.train_mb_size, session.train_epochs
        width = self._width(experience, session.seed)
        weights = next(backbone.parameters())
        self._classifier = session.classifier(width, classes_of(experience)).to(weights)
        own = trainable
        if adapter is not None:
            own = list(adapter.parameters())
            for p in trainable:
                p.requires_grad_(False)
            self.model.adapter = adapter.train()
        self.optimizer = session.optimizer([*own, *self._classifier.parameters()])
        self._schedule = session.schedule(self.optimizer)
        try:
            super()._train_exp(experience, eval_streams, **kwargs)
        finally:
            self.optimizer.zero_grad()
            self.optimizer = self._classifier = self._schedule = None
            self.dataloader, self.train_mb_size, self.train_epochs = ordinary
            for p in trainable:
                p.requires_grad_(True)
        if before is not None:
            self.model.adapter = FineTuned(backbone)
            before.restore()
        if self.model.adapter is not None:
            self.model.adapter.requires_grad_(False)
        self._fitted_on, self.adapted = bits_of(backbone), True

    def _width(self, experience: Any, seed: int) -> int:
        """D of the adapted features; the host's random streams are not used."""
        with torch.no_grad(), isolated_rng(seed, self.device), in_mode(self.model, training=False):
            x = experience.dataset.eval()[0][0].unsqueeze(0).to(self.device)
            return int(self.model.adapted(x).shape[1])

    def training_epoch(self, **kwargs: Any) -> None:
        """Of the session, or of the head."""
        if self._classifier is None:
            super().training_epoch(**kwargs)
        else:
            SupervisedTemplate.training_epoch(self, **kwargs)

    def _after_training_epoch(self, **kwargs: Any) -> None:
        super()._after_training_epoch(**kwargs)
        if self._schedule is not None:
            self._schedule.step()

    def forward(self) -> Tensor:
        """Logits of the current mini-batch; while the session goes on, of its own classifier."""
        if self._classifier is None:
            return super().forward()
        logits: Tensor = self._classifier(self.model.adapted(self.mb_x), len(self.head.counts))
        return logits

    # ---- Features ----------------------------------------------------------------------------

    def _before_eval(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Nothing is kept of features while the session goes on."""
        if self._classifier is None:
            super()._before_eval(num_workers=num_workers, **kwargs)
        else:
            SupervisedTemplate._before_eval(self, num_workers=num_workers, **kwargs)

    def _run(self, x: Tensor) -> Tensor:
        """What the head gets of images."""
        return super()._run(x) if self.session is None else self.model.features(x)

    @property
    def _source(self) -> nn.Module:
        """The backbone, with what is attached to it."""
        if self.session is None or self.model.adapter is None:
            return super()._source
        return nn.ModuleList([self.model.backbone, self.model.adapter])
