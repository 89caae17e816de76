"""Gradient-free strategies: a classifier computed from features of a frozen backbone."""

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
        train_mb_size: images per batch when features are computed; does not affect results.
        drift_compensation: when a plugin tunes the backbone again, move the stored statistics of
            earlier classes by an affine map from features before tuning to features after it,
            fitted on eight views of the current training images.
        joined: classify by the concatenated features of the given and the tuned backbone, each of
            norm 1. Both backbones are kept and run.
        compile: use ``torch.compile`` for the backbone.
    """

    train_mb_size: int
    drift_compensation: bool
    joined: bool
    compile: bool


class FeatureStrategy(PretrainedStrategy):
    """Extracts the features of an experience once, then calls :meth:`fit`.

    Features are those of the training images under the eval transform. The backbone is not changed
    unless a plugin tunes it before an experience. The stored statistics of earlier classes then
    become stale: they are moved with ``drift_compensation``; otherwise there is a warning. Metrics
    and plugins see features (B, D) as ``mb_x``.

    Args:
        model: backbone and head; the head has ``seen``, and ``move(drift)`` if it supports drift.
        train_mb_size, drift_compensation, joined, compile, common: see :class:`FeatureCommon`.

    Raises:
        ValueError: ``compile`` or ``joined`` is combined with a first session.
        FloatingPointError: the backbone returns NaN or Inf.
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
            raise ValueError("torch.compile cannot handle a first session's adapter. Omit one.")
        if joined and self.session:
            raise ValueError("A first session defines its own features. Omit it or `joined`.")
        super().__init__(model=model, train_mb_size=train_mb_size, train_epochs=1, **common)
        self.model.run_backbone.compile = compile
        if joined:
            self.model.join()
        self.drift_compensation = drift_compensation
        self._images: Any = None  # batches of the experience's training images
        self._fitted_on = ""  # hash of the backbone that computed the last features
        self._before: Mapping[str, Tensor] = {}  # its weights before plugins tune it
        self._warned = False

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add the features (n, D) of an experience, with labels (n,), to the head."""

    def first_session(self, num_workers: int = 0, shuffle: bool = True, **kwargs: Any) -> None:
        """Adapt the backbone to the first experience, before anything is fitted."""
        if self.session:
            from .first_session import adapt

            self.refuse_online_parts()
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
        """State of the model, and a hash of the backbone that the statistics belong to."""
        return {**super().state_dict(), "fitted_on": self._fitted_on}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict` of a strategy that was created with the same arguments."""
        super().load_state_dict(state)
        self._fitted_on = state["fitted_on"]

    # ---- Training ----------------------------------------------------------------------------

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Use the eval transform for training images."""
        self.adapted_dataset = self.experience.dataset.eval()

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Load every image once, in order."""
        super().make_train_dataloader(**{**kwargs, "shuffle": False, "drop_last": False})
        self._images = self.dataloader  # plugins such as Replay replace the attribute

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Make room for the experience's classes; plugins run right afterwards."""
        self.model = self.model_adaptation()
        if self.drift_compensation and self.head.seen.any():
            self._before = deepcopy(self.backbone.state_dict())

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Let plugins tune the backbone; then move the stored statistics, or warn."""
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
                    "earlier classes. They are now stale, and accuracy on those classes will "
                    "drop. Use MISTPlugin(tune_on='first') (--mist-arg tune_on=first) or "
                    "drift_compensation=True (--drift-compensation).",
                    stacklevel=2,
                )
        self._before, self._fitted_on = {}, now

    def _follow(self) -> None:
        """Move the stored statistics by the map from features before tuning to those after it."""
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
        """Fit the head, then iterate over the features once more for plugins and metrics."""
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
