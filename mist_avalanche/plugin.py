"""MIST as an Avalanche plugin: maps the method's steps to Avalanche's hooks."""

import warnings
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import torch
from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from .method.freezing import FrozenEntries
from .method.mist import MIST
from .method.objective import TEMPERATURE
from .method.options import MISTOptions
from .method.selection import Selection
from .method.views import View
from .models.backbones import check_backbone
from .models.classifier import FeatureExtractor, feature_extractor
from .models.defaults import backbone_defaults
from .utils import classes_of, derive_seed


class MISTPlugin(SupervisedPlugin):
    """Mutual Information-guided Sparse Tuning (arXiv 2505.19943) for any Avalanche strategy.

    Before an experience, the plugin scores how sensitive every backbone weight is to the MI
    objective, selects at most ``select_rate`` of the weights, and tunes these with SGD, dropping
    most of them (leaving them unchanged) in every step. While the strategy trains, the same mask is
    applied to its own backbone gradients. Entries (single weights) that are not selected stay
    bit-identical, whatever optimizer the strategy uses (``docs/mist.md``). A plugin belongs to one
    strategy.

    In an online stream (``split_online_stream``), the plugin scores and tunes once, on the first
    part with two classes and ``batch_size`` images. Until then it warns and freezes the backbone.

    A strategy may define four attributes for the plugin: ``backbone``, the module from images to
    features, if the model is more than a backbone and a classifier; ``tune_on``, the default of the
    option below; ``follows_tuning``, False if the backbone must not be tuned before every
    experience; ``masks_steps``, False if the strategy's own training must not be masked.

    Args:
        select_rate: maximum share of the backbone's entries that may move, in (0, 1]. It includes
            biases and normalisation weights, which are always selected.
        drop_rate: probability that a selected entry is dropped in a step, in [0, 1).
        tune_epochs: epochs of sparse tuning before an experience; 0 for none.
        later_epochs: epochs before later experiences; None for ``tune_epochs``. With fewer epochs,
            the statistics that a strategy has stored stay closer to the new features.
        score_on: ``"first"``: score before the first experience only; ``"every"``: before each.
        tune_on: before which experiences to tune: ``"every"`` as in the paper's Algorithm 1, or
            ``"first"``. None for the strategy's ``tune_on``, else ``"every"``.
        lr: learning rate of the backbone; the default is the paper's for ViT-B/16.
        projection_lr: learning rate of the projection.
        temperature: τ of the objective.
        overlap_decay: with ``score_on="every"``, the gradient of an entry in c earlier selections
            is scaled by ``overlap_decay**c``. Always-selected tensors are exempt, as published.
        protect_rate: share of each tensor's entries, the most sensitive ones, that is frozen
            permanently after an experience that scored them; their later scores are zero.
            Always-selected tensors are exempt. 0 protects none.
        select_by: how to rank the entries of a tensor. ``"mi"``: by the paper's MI-Fisher scores;
            ``"gradient"``: by the magnitude of the mean gradient; ``"magnitude"``: by the magnitude
            of the weight; ``"random"``: at random.
        ranking: ``"per_tensor"``, as in the paper: the same share of every tensor; ``"global"``:
            the highest scores of the whole backbone.
        objective: ``"mi"``, the paper's; ``"cross_entropy"`` scores and tunes on the cross-entropy
            of a linear classifier of the experience's classes.
        dynamics: ``"sparse"``, or ``"reference"`` to reproduce the published code: the rate applies
            per tensor, always-selected entries come on top, and momentum and weight decay move
            every entry.
        classifier: name of the module whose input is the features, unless found automatically.
        batch_size: images per batch of scoring and tuning, each in two views.
        chunk_size: views that pass through the backbone at a time, if a batch does not fit in
            memory. The gradient is the same, at the cost of a second forward pass.
        precision: precision of scoring and tuning: ``"32"`` or ``"bf16"`` (autocast; weights, loss
            and scores in float32).
        compile: use ``torch.compile`` for scoring and tuning.
        view: the second view. None for the paper's; ``{"flip": 0}`` for the paper's with another
            argument of :class:`~mist_avalanche.method.SecondView`; or ``f(batch, generator)``.
        seed: seed of all random draws; None takes ``torch.initial_seed()``.
        verbose: show progress bars.

    Raises:
        ValueError: an option is out of its range (at construction); MIST cannot work with the model
            or the experience, or the plugin gets a second strategy (before the experience).
        FloatingPointError: a loss is not finite while tuning; no weight moved in that step, unless
            ``dynamics="reference"``.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded")
        >>> strategy = Naive(model=model, optimizer=optimizer, plugins=[mist])
        >>> strategy.train(benchmark.train_stream[0])
        >>> mist.selection.fraction  # at most 0.05
    """

    def __init__(
        self,
        *,
        select_rate: float = 0.05,
        drop_rate: float = 0.9,
        tune_epochs: int = 20,
        later_epochs: int | None = None,
        score_on: Literal["first", "every"] = "first",
        tune_on: Literal["first", "every"] | None = None,
        lr: float = 1e-4,
        projection_lr: float = 1e-2,
        temperature: float = TEMPERATURE,
        overlap_decay: float = 0.9,
        protect_rate: float = 0.0,
        select_by: Literal["mi", "gradient", "magnitude", "random"] = "mi",
        ranking: Literal["per_tensor", "global"] = "per_tensor",
        objective: Literal["mi", "cross_entropy"] = "mi",
        dynamics: Literal["sparse", "reference"] = "sparse",
        classifier: str | None = None,
        batch_size: int = 48,
        chunk_size: int | None = None,
        precision: Literal["32", "bf16"] = "32",
        compile: bool = False,
        view: Mapping[str, Any] | View | None = None,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        known = MISTOptions.__dataclass_fields__
        given = {name: value for name, value in locals().items() if name in known}
        super().__init__()
        self.options = MISTOptions(**given)
        self.method = MIST(self.options)
        self._frozen: FrozenEntries | None = None  # while the strategy trains
        self._strategy: weakref.ref[Any] | None = None

    @classmethod
    def for_backbone(
        cls, name: str, *, drift_compensation: bool = False, joined: bool = False, **changes: Any
    ) -> "MISTPlugin":
        """Create a plugin with the tuning defaults of a backbone.

        Args:
            name: name as in :func:`~mist_avalanche.models.create_backbone`.
            drift_compensation: use the defaults for a strategy with drift compensation.
            joined: use those for a strategy with joined features.
            changes: options that differ from the defaults.

        Raises:
            ValueError: the backbone is unknown.
        """
        check_backbone(name)
        options = {"drift_compensation": drift_compensation, "joined": joined}
        return cls(**{**backbone_defaults(name).mist_for(**options), **changes})

    # ---- Results -----------------------------------------------------------------------------

    @property
    def selection(self) -> Selection | None:
        """The entries that may move; None before the first score."""
        return self.method.selection

    @property
    def sensitivity(self) -> dict[str, Tensor]:
        """Scores of the last score pass by parameter name, on the CPU."""
        return self.method.sensitivity

    @property
    def overlaps(self) -> list[float]:
        """For each selection after the first, the share that was also in the previous one."""
        return self.method.overlaps

    @property
    def losses(self) -> list[list[float]]:
        """For each tuning, the mean loss of each epoch."""
        return self.method.losses

    @property
    def updated_fraction(self) -> float:
        """Share of the backbone's entries that the last step changed."""
        if self._frozen is not None and self._frozen.changed is not None:
            return float(self._frozen.changed) / self._frozen.total
        return self.method.updated_fraction

    def state_dict(self) -> dict[str, Any]:
        """State of the plugin between two experiences, as tensors and plain data."""
        return self.method.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict` of a plugin with the same options."""
        self.method.load_state_dict(state)

    # ---- Avalanche's hooks -------------------------------------------------------------------

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Score, select and tune when due; then freeze the entries that are not selected."""
        self._check_strategy(strategy)
        if self._frozen is not None:  # training was interrupted
            self._frozen.finish()
            self._frozen = None
        method, experience = self.method, strategy.experience
        method.experience += 1
        extract = feature_extractor(strategy, self.options.classifier, method.seed)
        score, epochs = self._due(strategy, extract)
        if score or epochs:
            method.run(
                extract,
                experience.dataset.train(),
                classes_of(experience),
                strategy.device,
                score=score,
                epochs=epochs,
                num_workers=num_workers,
            )
        if score and method.selection is not None:
            self._publish(strategy, "selected_fraction", method.selection.fraction)
        if epochs:
            self._publish(strategy, "tuning_loss", method.losses[-1][-1])
            self._publish(strategy, "updated_fraction", method.updated_fraction)
        if getattr(strategy, "masks_steps", True):
            self._freeze(strategy, extract)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Mask and drop the strategy's own backbone gradients."""
        if self._frozen is not None:
            self._frozen.mask_gradients()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Scale the gradients of entries that earlier experiences selected."""
        if self._frozen is not None:
            self._frozen.begin_update()

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Restore the entries that must not move."""
        if self._frozen is not None:
            self._frozen.end_update()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Log the share of entries that the strategy's last step changed."""
        if self._frozen is not None and self._frozen.changed is not None:
            self._publish(strategy, "updated_fraction", self.updated_fraction)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Restore any other entries that have moved, and protect the most sensitive entries."""
        if self._frozen is not None:
            self._frozen.finish()
            self.method.updated_fraction = self.updated_fraction
            self._frozen = None
        self.method.protect()

    # ---- Helpers -----------------------------------------------------------------------------

    def _due(self, strategy: Any, extract: FeatureExtractor) -> tuple[bool, int]:
        """Whether to score before this experience, and how many epochs to tune."""
        method, options = self.method, self.options
        if method.selection is not None and not extract.backbone():
            return False, 0  # the strategy has frozen the backbone since
        extract.check_trainable()
        tune_on = options.tune_on or str(getattr(strategy, "tune_on", "every"))
        if tune_on == "every" and not getattr(strategy, "follows_tuning", True):
            raise ValueError(
                f"{type(strategy).__name__} cannot follow a backbone that is tuned before every "
                "experience: what it has learned depends on the earlier features. Use "
                "MISTPlugin(tune_on='first') (--mist-arg tune_on=first)."
            )
        online = isinstance(strategy.experience, OnlineCLExperience)
        if online and method.selection is not None:
            return False, 0
        score = options.score_on == "every" or method.selection is None
        epochs = options.tune_epochs
        if method.losses:
            later = epochs if options.later_epochs is None else options.later_epochs
            epochs = 0 if tune_on == "first" else later
        if not (score or epochs) or self._enough(strategy.experience, online=online):
            return score, epochs
        return False, 0

    def _enough(self, experience: Any, *, online: bool) -> bool:
        """Whether the experience has enough images and classes for the MI objective.

        If not, an online stream waits for a later part; otherwise a ValueError is raised, which
        says what to change.
        """
        images, classes = len(experience.dataset), len(classes_of(experience))
        needed = self.options.batch_size if online and self.options.tune_epochs else 2
        if images >= needed and classes > 1:
            return True
        found = (
            f"Experience {self.method.experience} has {images} image(s) of {classes} class(es), "
            f"and MIST needs at least {needed} images of two classes. "
        )
        if not online:
            fix = "Use fewer experiences, or MISTPlugin(score_on='first', tune_on='first')."
            raise ValueError(found + fix)
        if self.method.experience == 0:
            wait = "Until such a part arrives, the backbone is not tuned. Lower batch_size."
            warnings.warn(found + wait, stacklevel=2)
        return False

    def _freeze(self, strategy: Any, extract: FeatureExtractor) -> None:
        """Freeze everything before the classifier except the selected entries."""
        method, options = self.method, self.options
        seed = derive_seed(method.seed, 6, method.experience)
        self._frozen = FrozenEntries(
            extract.everything(),
            method.masks,
            scales=method.scales,
            drop_rate=options.drop_rate,
            generator=torch.Generator(strategy.device).manual_seed(seed),
            restore=options.dynamics == "sparse",
        )
        self._frozen.attach(strategy.optimizer)

    def _publish(self, strategy: Any, name: str, value: float) -> None:
        """Send a number to the strategy's loggers."""
        step = strategy.clock.train_iterations  # as for Avalanche's own metrics
        metric = MetricValue(self, f"MIST/{name}", value, step)
        strategy.evaluator.publish_metric_value(metric)

    def _check_strategy(self, strategy: Any) -> None:
        """Refuse a second strategy: selection and projection belong to the first one's backbone."""
        known = strategy if self._strategy is None else self._strategy()
        if known is not strategy and self.selection is not None:
            raise ValueError(
                "This MISTPlugin has already been used with another strategy, and its selection "
                "belongs to that backbone. Create a new MISTPlugin for each strategy."
            )
        self._strategy = weakref.ref(strategy)

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy, without the strategy: a copy belongs to a copy of the strategy."""
        return {**vars(self), "_strategy": None}
