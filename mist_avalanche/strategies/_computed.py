"""Strategies without gradients: features of a frozen backbone, and a head that is computed."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from .._support.checks import check_integer, check_not_empty
from .._support.distributed import gather_rows, world_size
from .._support.memory_use import advice
from ..models.attached import without_classifier
from ..models.drift import fit_drift, rotations_and_flips
from ..models.features import in_mode
from ..models.forward import Forward
from ..models.heads import BackboneWithHead, StatisticsHead
from ..models.snapshot import Snapshot
from ._batches import FeatureBatches, OwnShare, collect, own_share
from ._loop import QuietEvaluation
from .feature_cache import FeatureCache, Features, bits_of, by_dataset, fingerprint, steady


class ComputedHeadStrategy(QuietEvaluation, SupervisedTemplate, ABC):
    """Fits a head to the features of each experience's training images under the eval transform.

    The backbone stays as it is unless a plugin tunes it before an experience. While it does, an
    image to evaluate passes through it once, however often it is evaluated, and all that are new
    in one go. Metrics and plugins see features (B, D) as ``mb_x``, in training once the head is
    fitted.

    Args:
        head: the classifier.
        build: makes a model of the backbone and the head.
        model, criterion, drift_compensation, precision, compile, cache_mb, kwargs: as for
            :class:`~mist_avalanche.strategies.SimpleCIL`.
    """

    # of the model, which state_dict has and a checkpoint need not
    modules_in_state: tuple[str, ...] = ("head",)
    can_follow = True  # a backbone that moves, with drift_compensation

    def __init__(
        self,
        *,
        model: nn.Module,
        head: StatisticsHead,
        criterion: nn.Module | None,
        drift_compensation: bool,
        precision: str,
        compile: bool,
        cache_mb: int,
        build: Callable[..., BackboneWithHead] = BackboneWithHead,
        **kwargs: Any,
    ) -> None:
        check_integer("cache_mb", cache_mb, 0)
        for argument in ("optimizer", "train_epochs"):
            if argument in kwargs:
                raise TypeError(
                    f"{type(self).__name__} has no argument {argument!r}: its classifier is "
                    "computed, not trained. Leave it away."
                )
        without_classifier(model, type(self).__name__)
        super().__init__(
            model=build(model, head),
            optimizer=None,
            criterion=criterion or nn.CrossEntropyLoss(),
            train_epochs=1,
            **kwargs,
        )
        self.drift_compensation = drift_compensation
        self.run_backbone = Forward(precision, compile=compile)
        self.feature_cache = FeatureCache(cache_mb * 10**6) if cache_mb else None
        self._evaluated: dict[int, Features] = {}  # by the id of the dataset
        self._before_tuning: Snapshot | None = None
        self._fitted_on = b""  # bits of the backbone
        self._told = False
        self._upright: Features | None = None
        self._unchanged: Any = None
        self._loader: Any = None

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add an experience, features (n, D) of labels (n,), to the head."""

    def state_dict(self) -> dict[str, Any]:
        """The head with what it has seen, not the backbone."""
        fitted_on = self._fitted_on.hex()
        return {"head": self.head.state_dict(), "fitted_on": fitted_on, "told": self._told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy with the same arguments."""
        self.head.load_state_dict(state["head"])
        self._fitted_on, self._told = bytes.fromhex(state["fitted_on"]), bool(state["told"])
        self._before_tuning = self._upright = self._unchanged = self._loader = None
        self._evaluated = {}
        if self.feature_cache is not None:
            self.feature_cache.clear()

    # ---- An experience -----------------------------------------------------------------------

    dataloader: Any

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Train on the images as they are evaluated."""
        check_not_empty(self.experience)
        self.adapted_dataset = self.experience.dataset.eval()

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Every image once, in order; of several processes each has its share."""
        if world_size() == 1:
            super().make_train_dataloader(**{**kwargs, "shuffle": False, "drop_last": False})
        else:
            self.dataloader = own_share(
                [self.adapted_dataset], self.train_mb_size, self.device, **kwargs
            )

    def make_optimizer(self, **kwargs: Any) -> None:
        """There is nothing to optimise."""

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Make room for the experience's classes; plugins come right after."""
        self.model = self.model_adaptation()
        self._loader = self.dataloader  # a plugin may put another in its place
        self._before_tuning = self._upright = None
        if self.drift_compensation and self.head.seen.any():
            self._before_tuning = Snapshot(self.model.backbone)

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Plugins may tune the backbone here; what is stored follows its features."""
        super()._before_training_exp(**kwargs)
        earlier, self._fitted_on = self._fitted_on, bits_of(self.model.backbone)
        snapshot, self._before_tuning = self._before_tuning, None
        if not self.head.seen.any():
            return
        if earlier == self._fitted_on:
            if snapshot is not None:
                self._tell(
                    "`drift_compensation` has no effect here: nothing has tuned the backbone since "
                    "the earlier classes were stored. Add MISTPlugin(tune_on='every') (--mist "
                    "--mist-arg tune_on=every), or leave it away."
                )
        elif snapshot is None or not self._follow(snapshot):
            self._tell_of_stale()

    def _follow(self, snapshot: Snapshot) -> bool:
        """Move what is stored along with the features; False where they have not moved since."""
        with snapshot.in_place():
            before = self._features_of(self._loader, views=True).features
        after, labels, tasks = self._features_of(self._loader, views=True)
        self._upright = Features(after[:, 0], labels, tasks)  # the first view is the image as it is
        if torch.equal(before, after):
            return False
        generator = torch.Generator().manual_seed(self.clock.train_exp_counter)
        self.head.move(fit_drift(before, after, generator))
        return True

    def _tell_of_stale(self) -> None:
        or_else = f", or {type(self).__name__}(drift_compensation=True) (--drift-compensation)"
        self._tell(
            f"The backbone has moved since {type(self).__name__} stored what it knows of earlier "
            "classes, and these stay where they were: they will be recognised less well. Use "
            "MISTPlugin(tune_on='first') (--mist-arg tune_on=first)"
            f"{or_else if self.can_follow else ''}."
        )

    def _tell(self, what: str) -> None:
        """Warn, once a strategy."""
        if not self._told:
            self._told = True
            warnings.warn(what, stacklevel=2)

    @torch.no_grad()
    def training_epoch(self, **kwargs: Any) -> None:
        """Fit the head to the experience; then go through it once more for plugins and metrics."""
        found = self._upright or self._features_of(self._loader)
        self.fit(found.features, found.labels)
        for self.mbatch in FeatureBatches(found, self.train_mb_size):
            if self._stop_training:
                break
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self._before_forward(**kwargs)
            self.mb_output = self.head(self.mb_x)
            self._after_forward(**kwargs)
            self.loss = self.criterion()
            self._after_training_iteration(**kwargs)

    @torch.no_grad()
    def _features_of(self, batches: Iterable[Any], *, views: bool = False) -> Features:
        """Features of batches (x, y) or (x, y, ..., t) in order, or of 8 views of each image."""
        smaller = "Lower train_mb_size and eval_mb_size; neither changes a result."

        def of_views(x: Tensor) -> Tensor:
            return torch.stack([self._run(view) for view in rotations_and_flips(x)], dim=1)

        with in_mode(self.model, training=False), advice("a batch of images", smaller):
            found = collect(batches, self.device, of_views if views else self._run)
        if world_size() == 1:
            return found
        n = batches.count if isinstance(batches, OwnShare) else len(found.labels)
        return Features(*(gather_rows(part[:n]) for part in found))

    def _run(self, x: Tensor) -> Tensor:
        """Features (B, D) of images."""
        return self.run_backbone(self.model.backbone, x)

    @property
    def _source(self) -> nn.Module:
        """What features are computed with."""
        backbone: nn.Module = self.model.backbone
        return backbone

    # ---- Evaluation --------------------------------------------------------------------------

    def eval(self, exp_list: Any, **kwargs: Any) -> Any:
        """Accuracy and other metrics, as in Avalanche."""
        if not self.is_training and not self.head.seen.any():
            raise RuntimeError(
                f"{type(self).__name__} has seen no class yet. Call train on an experience before "
                "eval."
            )
        return super().eval(exp_list, **kwargs)

    def _before_eval(self, num_workers: int = 0, **kwargs: Any) -> None:
        """Features of everything that is new and not a matter of chance, from one loader."""
        super()._before_eval(num_workers=num_workers, **kwargs)
        state = fingerprint(self._source)
        known = self.is_training or state.endswith(self._fitted_on) or not self.head.seen.any()
        if not known and bits_of(self.model.backbone) != self._fitted_on:
            self._tell_of_stale()
        if self.feature_cache is None:
            return
        looks = steady(self.current_eval_stream)
        state += self.run_backbone.precision.encode()

        def compute(new: list[Any]) -> list[Features]:
            evaluated = [dataset.eval() for dataset in new]
            loader = own_share(evaluated, self.eval_mb_size, self.device, num_workers)
            return by_dataset(self._features_of(loader), new)

        found = self.feature_cache.get(looks, state, compute)
        self._evaluated = {id(d): f for (d, _), f in zip(looks, found, strict=True)}

    def eval_dataset_adaptation(self, **kwargs: Any) -> None:
        """The experience under the eval transform."""
        super().eval_dataset_adaptation(**kwargs)
        self._unchanged = self.adapted_dataset

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Features that are there; images where a plugin has put in another dataset."""
        found = self._evaluated.get(id(self.experience.dataset))
        if found is None or self.adapted_dataset is not self._unchanged:
            super().make_eval_dataloader(**kwargs)
        else:
            self.dataloader = FeatureBatches(found, self.eval_mb_size)

    def _after_eval(self, **kwargs: Any) -> None:
        super()._after_eval(**kwargs)
        self._evaluated = {}

    def forward(self) -> Tensor:
        """Logits of the current mini-batch, of features or images."""
        known = isinstance(self.dataloader, FeatureBatches)
        logits: Tensor = self.head(self.mb_x if known else self._run(self.mb_x))
        return logits

    @property
    def head(self) -> Any:
        """The classifier."""
        return self.model.head
