"""MIST as an Avalanche plugin: when the method of :mod:`mist_avalanche.method` does what."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from ._support.checks import check_not_empty, nearest_first
from ._support.memory_use import advice
from .method.epochs import Keeper
from .method.guard import StepGuard
from .method.history import SelectionHistory
from .method.objective import Objective
from .method.options import OPTIONS, MISTOptions, merged_options, refuse_idle_options
from .method.selection import Selection
from .method.sparse_tuning import HOST, SparseTuning
from .models.defaults import backbone_defaults
from .models.features import FeatureExtractor, feature_extractor, model_to_tune

_SMALLER = "Lower chunk_size (the same gradient) or batch_size, or use precision='bf16'."


class MISTPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Mutual Information-guided Sparse Tuning (arXiv 2505.19943) for any Avalanche strategy.

    Before an experience it scores how sensitive every backbone weight is to the MI objective,
    selects at most ``select_rate`` of them, and tunes those with SGD, most of them resting in
    every step. While the strategy trains, it gives the strategy's own backbone gradients the same
    mask. An entry that is not selected never changes by a bit, whatever optimizer the strategy has
    and whatever other plugins do (``docs/sparsity.md``). A plugin belongs to one strategy.

    In an online stream (``split_online_stream``) it scores and tunes once, on the first part of two
    classes and ``batch_size`` images, whatever ``score_on`` and ``tune_on`` say; until then the
    backbone rests, with a warning. The other images of the experience that a part comes from are
    not looked at, because they have not arrived. Tuning on a few costs accuracy: on 10 images of
    glyphs, 3 points of SimpleCIL's. To tune on more, train on a whole experience before the stream.

    A strategy may have three attributes for the plugin: ``model_to_tune``, a model of backbone and
    classifier alone, where its own model is more; ``tune_on``, when to tune unless the plugin is
    told; ``masks_steps``, False where it trains the whole backbone itself, so that the mask holds
    for MIST's own tuning only.

    Args:
        options: those of :class:`~mist_avalanche.method.MISTOptions`, keyword-only, which also says
            what they are. They are fixed once the plugin is made.

    Attributes:
        options: all of them, defaults filled in.
        seed: of the random draws.

    Raises:
        TypeError: there is no such option.
        ValueError: an option out of its range, at construction; a model or an experience that
            MIST cannot work with, or a second strategy, before the experience; a backbone that is
            made another while the strategy trains.
        FloatingPointError: a loss that is not finite; weights are as before the step.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        for name in options.keys() - {*OPTIONS}:
            raise TypeError(
                f"MISTPlugin has no argument {name!r}. It has {nearest_first(name, OPTIONS)}."
            )
        self.options = MISTOptions(**options)
        self.method = SparseTuning(self.options)
        self.keeper: Keeper | None = None  # a Checkpoint
        self._guard: StepGuard | None = None
        self._owner: weakref.ref[Any] | None = None

    @classmethod
    def for_backbone(
        cls, name: str, *, drift_compensation: bool = False, **changes: Any
    ) -> MISTPlugin:
        """The plugin with the tuning defaults of a backbone, and some of them changed.

        Args:
            name: of :func:`~mist_avalanche.models.create_backbone`.
            drift_compensation: those for a strategy that compensates drift.
            changes: options.

        Raises:
            ValueError: nobody knows the backbone.
        """
        from .models.backbones import check_backbone  # which needs timm

        check_backbone(name)
        defaults = backbone_defaults(name).mist_for(drift_compensation=drift_compensation)
        return cls(**merged_options(defaults, changes))

    # ---- What there is to see ----------------------------------------------------------------

    @property
    def selection(self) -> Selection | None:
        """What may move; None before the first score."""
        return self.method.selection

    @property
    def sensitivity(self) -> dict[str, Tensor]:
        """Name to scores of the last score pass; empty without ``keep_scores``."""
        return self.method.sensitivity

    @property
    def overlaps(self) -> list[float]:
        """Of each selection after the first, the share that the one before had too."""
        return self.method.overlaps

    @property
    def tuning_losses(self) -> list[float]:
        """Mean loss of each epoch of the last tuning."""
        return self.method.losses[-1] if self.method.losses else []

    @property
    def history(self) -> SelectionHistory:
        """What earlier experiences selected, and what is protected."""
        return self.method.history

    @property
    def objective(self) -> Objective:
        """The loss, with its projection."""
        return self.method.objective

    @property
    def seed(self) -> int:
        """Of the random draws."""
        return self.method.seed

    @property
    def updated_fraction(self) -> float:
        """Backbone entries that the last step changed / all backbone entries."""
        if self._guard is not None and self._guard.changed is not None:
            return float(self._guard.changed) / self._guard.entries.total
        return self.method.updated

    def state_dict(self) -> dict[str, Any]:
        """What the plugin knows between two experiences, as tensors and plain data."""
        return {**self.method.state_dict(), "updated": self.updated_fraction}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a plugin with the same options."""
        self._release(check=False)
        self.method.load_state_dict(state)

    # ---- Avalanche's hooks -------------------------------------------------------------------

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse an experience without images."""
        check_not_empty(strategy.experience)

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Score, select and tune when due; then guard what is not to move."""
        self._check_owner(strategy)
        self._release()
        method = self.method
        method.experience += 1
        begun = self.keeper.take_up(strategy) if self.keeper else {}
        extract = feature_extractor(strategy, self.options.classifier, self.seed)
        frozen = self.selection is not None and not extract.backbone()
        if frozen or "training" in begun:  # by the strategy; it had begun to train
            self._start_guard(strategy, extract)
            return
        extract.check_trainable()
        if isinstance(strategy.experience, OnlineCLExperience):
            score, epochs = method.due_online(strategy.experience)
        else:
            tune_on = self.options.tune_on or str(getattr(strategy, "tune_on", "every"))
            refuse_idle_options({**vars(self.options), "tune_on": tune_on})
            score, epochs = method.due(strategy.experience, tune_on)
        keeping = {"keeper": self.keeper, "begun": begun, "verbose": self.options.verbose}
        with advice("MIST's batches", _SMALLER):
            if self.options.projection_epochs and not method.warm and (score or epochs):
                method.warm_up(strategy, extract, num_workers, **keeping)
            if score and "tuning" not in begun:
                method.score(strategy, extract, num_workers)
                method.select(extract)
            if score and self.selection is not None:
                self._publish(strategy, "selected_fraction", self.selection.fraction)
            if epochs:
                report = method.tune(strategy, extract, epochs, num_workers, **keeping)
                self._publish(strategy, "tuning_loss", report.losses[-1])
                self._publish(strategy, "updated_fraction", report.updated_fraction)
        self._start_guard(strategy, extract)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Mask and drop the strategy's own backbone gradients."""
        if not bool(torch.isfinite(strategy.loss).all()):
            raise FloatingPointError(
                f"The strategy's loss is {strategy.loss.tolist()} in experience "
                f"{self.method.experience}, epoch {strategy.clock.train_exp_epochs}, step "
                f"{strategy.clock.train_epoch_iterations}. The weights are as they were before "
                "this step. Lower its learning rate, or check the images for NaN or Inf."
            )
        if self._guard is not None:
            self._guard.mask_gradients()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Guard the step, also of an optimizer or a model that was exchanged."""
        if self._guard is not None and strategy.optimizer is not None:
            self._guard.before_update(model_to_tune(strategy), strategy.optimizer)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """End the step, also of an optimizer that calls no hooks, or of a second one."""
        if self._guard is not None:
            self._guard.after_update()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """See that the rest is as it was, and log what the strategy's last step changed."""
        if self._guard is not None:
            self._guard.verify(model_to_tune(strategy))
            if self._guard.changed is not None:
                self._publish(strategy, "updated_fraction", self.updated_fraction)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Protect the most sensitive entries, and let go of the optimizer."""
        if self._guard is not None:
            self._guard.verify(model_to_tune(strategy))
            self._guard.detach()
        self.method.protect()

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """See to the rest once more, for plugins that come later.

        After that the model is the user's, until the next experience.
        """
        self.settle()
        if self._guard is not None:
            self._guard.resting = not self._guard.training

    def settle(self) -> None:
        """Put back what other plugins have moved though it is not selected, with a warning."""
        if self._guard is not None and not self._guard.resting:
            self._guard.check()

    # ---- What these need ---------------------------------------------------------------------

    def _start_guard(self, strategy: Any, extract: FeatureExtractor) -> None:
        """From here on nothing before the classifier moves but what is selected."""
        if not getattr(strategy, "masks_steps", True):
            return  # the strategy trains the whole backbone itself, and says so
        dropping = self.method.dropping(extract, HOST, strategy.device, frozen=True)
        names = {*dropping["entries"].names}
        self._guard = StepGuard(
            **dropping,
            others={name: p for name, p in extract.everything().items() if name not in names},
            classifier=extract.classifier,
            restore=self.options.dynamics == "sparse",
        )
        self._guard.attach(strategy.optimizer)

    def _publish(self, strategy: Any, name: str, value: float) -> None:
        """Send a number to the strategy's loggers."""
        strategy.evaluator.publish_metric_value(
            MetricValue(self, f"MIST/{name}", value, self.method.experience)
        )

    def _check_owner(self, strategy: Any) -> None:
        """Refuse a second strategy: mask, projection and counts are of the first one's backbone."""
        owner = strategy if self._owner is None else self._owner()
        if owner is not strategy and self.selection is not None:
            raise ValueError(
                "This MISTPlugin has been in another strategy, whose backbone its selection is of. "
                "Make a new MISTPlugin for each strategy."
            )
        self._owner = weakref.ref(strategy)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OPTIONS:
            raise AttributeError(
                f"MISTPlugin's options are fixed. Make a new one: MISTPlugin({name}={value!r})."
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which go with a copy of the strategy."""
        return {**vars(self), "_owner": None}

    def _release(self, *, check: bool = True) -> None:
        """Let go of the strategy's optimizer; put back, and free the copy of the backbone."""
        if self._guard is not None:
            self.method.updated = self.updated_fraction
            guard, self._guard = self._guard, None
            guard.detach()
            if check:
                guard.check()


# what help() and editors show instead of **options
MISTPlugin.__signature__ = inspect.signature(MISTOptions)
