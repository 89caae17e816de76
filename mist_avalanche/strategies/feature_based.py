"""Strategies without gradients: a classifier computed from features of a frozen backbone."""

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..models.backbone_with_head import BackboneWithHead
from ..models.drift import fit_drift, rotations_and_flips
from ..utils import state_hash
from .base import Common, FeatureBatches, PretrainedStrategy


class FeatureCommon(Common, total=False):
    """Keyword arguments of every feature-based strategy, in addition to :class:`Common`.

    Args:
        train_mb_size: images per batch while features are computed; changes no result.
        drift_compensation: where a plugin tunes the backbone again, move what is stored of earlier
            classes by the affine map, fitted on eight views of the current training images, from
            their features before to those after.
        joined: classify by the features of the backbone as it was given and as it is tuned, side by
            side, each of norm 1. Two backbones are run and kept.
        compile: use ``torch.compile`` for the backbone.
    """

    train_mb_size: int
    drift_compensation: bool
    joined: bool
    compile: bool


class FeatureStrategy(PretrainedStrategy):
    """Extracts the features of an experience once, then calls :meth:`fit`.

    Features are those of the training images under the eval transform. The backbone stays as it is
    unless a plugin tunes it before an experience. Statistics stored of earlier classes then become
    stale: there is a warning, or they are moved with ``drift_compensation``. Metrics and plugins
    see features (B, D) as ``mb_x``.

    Args:
        model: backbone and head; the head has ``seen``, and ``move(drift)`` if it can follow.
        train_mb_size, drift_compensation, joined, compile, common: see :class:`FeatureCommon`.

    Raises:
        ValueError: ``compile`` or ``joined`` with a first session.
        FloatingPointError: the backbone gives NaN or Inf.
    """

    seed: int = 0
    session: Mapping[str, Any] = {}  # settings of an adapter that the first experience trains

    def __init__(
        self,
        *,
        model: BackboneWithHead,
        train_mb_size: int = 64,
        drift_compensation: bool = False,
        joined: bool = False,
        compile: bool = False,
        **common: Unpack[Common],
    ) -> None:
        if compile and self.session:
            raise ValueError("torch.compile does not see a first session's adapter. Omit one.")
        if joined and self.session:
            raise ValueError("A first session has features of its own. Omit it or `joined`.")
        super().__init__(model=model, train_mb_size=train_mb_size, train_epochs=1, **common)
        self.model.run_backbone.compile = compile
        if joined:
            self.model.join()
        self.drift_compensation = drift_compensation
        self._images: Any = None  # batches of the experience's training images
        self._fitted_on = ""  # hash of the backbone that the last features came from
        self._before: Mapping[str, Tensor] = {}  # its weights before plugins tune it
        self._warned = False

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add an experience, features (n, D) of labels (n,), to the head."""

    def first_session(self, num_workers: int = 0, shuffle: bool = True, **kwargs: Any) -> None:
        """Adapt the backbone to the first experience, before anything is fitted."""
        if self.session:
            from .first_session import adapt

            adapter = adapt(
                self.backbone,
                self.experience,
                seed=self.seed,
                precision=self.model.run_backbone.precision,
                num_workers=num_workers,
                shuffle=shuffle,
                **self.session,
            )
            self.model.use(adapter)

    def state_dict(self) -> dict[str, Any]:
        """The model, and which backbone the stored statistics belong to."""
        return {**super().state_dict(), "fitted_on": self._fitted_on}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy that was made with the same arguments."""
        super().load_state_dict(state)
        self._fitted_on = state["fitted_on"]

    # ---- Training ----------------------------------------------------------------------------

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Train on the images as they are evaluated."""
        self.adapted_dataset = self.experience.dataset.eval()

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Every image once, in order."""
        super().make_train_dataloader(**{**kwargs, "shuffle": False, "drop_last": False})
        self._images = self.dataloader  # plugins such as Replay put another in its place

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Make room for the experience's classes; plugins come right after."""
        self.model = self.model_adaptation()
        if self.drift_compensation and self.head.seen.any():
            self._before = deepcopy(self.backbone.state_dict())

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Let plugins tune the backbone; then what is stored follows its features."""
        super()._before_training_exp(**kwargs)
        first = not self.head.seen.any()
        if first:
            self.first_session(**kwargs)
            self.forget_features()
        now = state_hash(self.backbone).hex()
        if not first and now != self._fitted_on:
            if self.drift_compensation:
                self._follow()
            elif not self._warned:
                self._warned = True
                warnings.warn(
                    f"The backbone was tuned after {type(self).__name__} had stored statistics of "
                    "earlier classes. They are stale now, and those classes will be recognised "
                    "less well. Use MISTPlugin(tune_on='first') (--mist-arg tune_on=first) or "
                    "drift_compensation=True (--drift-compensation).",
                    stacklevel=2,
                )
        self._before, self._fitted_on = {}, now

    def _follow(self) -> None:
        """Move what is stored by the map from features before tuning to features after."""
        now, new = deepcopy(self.backbone.state_dict()), self._views_of_images()
        self.backbone.load_state_dict(self._before)
        old = self._views_of_images()
        self.backbone.load_state_dict(now)
        generator = torch.Generator().manual_seed(self.clock.train_exp_counter)
        self.head.move(fit_drift(old, new, generator))

    def _views_of_images(self) -> Tensor:
        """Features (n, V, D) of V views of each training image."""

        def views(x: Tensor) -> Tensor:
            return torch.stack([self.model.features(view) for view in rotations_and_flips(x)], 1)

        return self.collect(self._images, views).features

    @torch.no_grad()
    def training_epoch(self, **kwargs: Any) -> None:
        """Fit the head; then pass through the features once more for plugins and metrics."""
        found = self.collect(self._images, self.model.features)
        self.fit(found.features, found.labels)
        for self.mbatch in FeatureBatches(found, self.train_mb_size):
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            self.mb_output = self.head(self.mb_x)
            self._after_forward(**kwargs)
            self.loss = self.criterion()
            self._after_training_iteration(**kwargs)

    # ---- Evaluation --------------------------------------------------------------------------

    def make_eval_dataloader(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Batches of features."""
        dataset = self.experience.dataset
        found = self.cached(dataset, "features", self.model.features, num_workers)
        self.dataloader = FeatureBatches(found, self.eval_mb_size)

    def forward(self) -> Tensor:
        """Logits (B, C) of the current features."""
        return self.head(self.mb_x)
