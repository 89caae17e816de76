"""MIST as an Avalanche plugin: hooks that name what happens, over the pieces of this package."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import torch
from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor
from tqdm.auto import tqdm

from ._support.checks import (
    check_choice,
    check_experience,
    check_integer,
    check_not_empty,
    check_rate,
    classes_of,
)
from ._support.memory_use import advice
from ._support.randomness import derive_seed
from .method.entries import Entries
from .method.epochs import Keeper, run_epochs
from .method.gradients import SelectedEntries
from .method.guard import StepGuard
from .method.history import SelectionHistory, most_sensitive
from .method.losses import TEMPERATURE
from .method.objective import CrossEntropyObjective, MIObjective, Objective
from .method.selection import Selection, random_scores, select
from .method.sensitivity import fisher_scores, gradient_scores
from .method.tuning import ProjectionSGD, ReferenceSGD, SparseSGD
from .method.views import View, second_view
from .models.backbones import backbone_defaults
from .models.features import FeatureExtractor, always_selected, feature_extractor, model_to_tune
from .models.forward import Forward

_SCORE, _TUNE, _HOST, _WARM = 0, 1, 2, 4  # purposes of random numbers; the objective has 3
_SMALLER = "Lower chunk_size (the same gradient) or batch_size, or use precision='bf16'."
_PLAIN: Mapping[str, type] = {  # attributes that state_dict has as they are
    **{"seed": int, "sensitivity": dict, "tuning_losses": list, "overlaps": list},
    **{"_experience": int, "_warm": bool, "_tuned": bool},
}
SELECT_BY = ("mi", "gradient", "magnitude", "random")


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

    Args:
        select_rate: share of the backbone's entries that may move, in (0, 1]; biases and scales of
            normalisations, always selected, are part of it.
        drop_rate: probability that a selected entry rests in a step, in [0, 1).
        tune_epochs: passes of sparse tuning before an experience; 0 for none.
        later_epochs: those after the first tuning; None for as many. Fewer leave what a strategy
            stored nearer to the features it will see.
        projection_epochs: passes that train the projection alone, before the first score. The
            paper has none. From a random projection the first steps pull all features together,
            which costs classes to come; see Kumar et al., arXiv 2202.10054.
        score_on: ``"first"``: score before the first experience only; ``"every"``: before each.
        tune_on: before which experiences to tune: ``"every"`` as in the paper's algorithm, or
            ``"first"``; None for ``"every"``, or what the strategy's ``tune_on`` says. What a
            strategy stored of earlier features does not follow by itself; see ``docs/drift.md``.
        lr: of the backbone while tuning (the paper's for ViT-B/16).
        projection_lr: of the projection while tuning.
        temperature: τ of the objective.
        overlap_decay: an entry of c earlier selections has its gradient scaled by this to the c,
            with ``score_on="every"``; always-selected tensors are exempt, as in the
            reference code.
        protect_rate: share of each tensor's entries, the most sensitive, that are frozen for good
            after an experience in which they were scored; always-selected tensors are exempt. 0
            protects none, less than one entry the maximum of each tensor. At the next score their
            sensitivity counts as zero.
        select_by: what ranks the entries of a tensor. ``"mi"``: MI-Fisher scores, as published.
            ``"gradient"``: the size of the mean gradient. ``"magnitude"``: that of the weight.
            ``"random"``: chance.
        ranking: ``"per_tensor"`` as published: the same share of every tensor. ``"global"``: the
            highest scores of the whole backbone, wherever they are.
        objective: ``"mi"`` as published; ``"cross_entropy"`` scores and tunes on the
            cross-entropy of a linear classifier of the experience's classes.
        classifier: name of the module whose input are the features, when it cannot be found.
        dynamics: ``"sparse"``, or ``"reference"`` for the published code's, in which the rate holds
            per tensor with the always-selected entries on top, and momentum and weight decay move
            every entry.
        batch_size: images a batch of scoring and tuning, each in two views.
        chunk_size: views that pass through the backbone at a time, where a batch is too large for
            the memory, for a second forward pass; see
            :class:`~mist_avalanche.models.forward.Forward`.
        precision: of scoring and tuning: ``"32"`` or ``"bf16"`` (autocast; weights, loss and scores
            in float32).
        compile: use ``torch.compile`` for scoring and tuning.
        view: the second view; None for the paper's, ``{"flip": 0}`` for the paper's with another
            argument of :class:`~mist_avalanche.method.SecondView`, or ``f(batch, generator)``.
        keep_scores: keep :attr:`sensitivity`, in the CPU's memory, after it was used.
        seed: of the plugin's random draws; None takes ``torch.initial_seed()``.
        verbose: show progress bars.

    Attributes:
        selection: a :class:`~mist_avalanche.method.Selection`, None before the first score.
        sensitivity: name to scores of the last score pass; empty without ``keep_scores``.
        overlaps: of each selection after the first, the share that the one before had too.
        tuning_losses: mean loss of each epoch of the last tuning.
        updated_fraction: share of backbone entries that the last step changed.

    Raises:
        ValueError: an argument out of its range, at construction; a model or an experience that
            MIST cannot work with, or a second strategy, before the experience; a backbone that is
            made another while the strategy trains.
        FloatingPointError: a loss that is not finite; weights are as before the step.

    Differences from the reference code
        * Only kept entries move. There, weight decay and momentum move all of them; ours gives
          both to the kept entries alone, and momentum rests with its entry.
        * The budget is the sum over all entries. There, the rate holds per tensor and biases and
          normalisations come on top.
        * Equal scores do not widen the selection, and zero sensitivity is not selected. There, a
          tensor without gradient is selected whole.
        * The projection always trains. There, its gradients are dropped too.
        * Scores are taken in evaluation mode, so that no buffer and no random stream changes; the
          published backbones have neither dropout nor running statistics.
        * ``tune_epochs`` counts tuning epochs. There, the score pass is the first of ``mi_epochs``.
        * A last batch of one image, which has nothing to contrast, is left out.
    """

    def __init__(
        self,
        *,
        select_rate: float = 0.05,
        drop_rate: float = 0.9,
        tune_epochs: int = 20,
        later_epochs: int | None = None,
        projection_epochs: int = 0,
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
        classifier: str | None = None,
        dynamics: Literal["sparse", "reference"] = "sparse",
        batch_size: int = 48,
        chunk_size: int | None = None,
        precision: Literal["32", "bf16"] = "32",
        compile: bool = False,
        view: Mapping[str, Any] | View | None = None,
        keep_scores: bool = True,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.select_rate = check_rate("select_rate", select_rate, "(0, 1]")
        self.drop_rate = check_rate("drop_rate", drop_rate, "[0, 1)")
        self.tune_epochs = check_integer("tune_epochs", tune_epochs, 0)
        self.later_epochs = (
            None if later_epochs is None else check_integer("later_epochs", later_epochs, 0)
        )
        self.projection_epochs = check_integer("projection_epochs", projection_epochs, 0)
        self.score_on = check_choice("score_on", score_on, ("first", "every"))
        if tune_on is not None:
            check_choice("tune_on", tune_on, ("first", "every"))
        self.tune_on = tune_on
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.projection_lr = check_rate("projection_lr", projection_lr, "(0, inf)")
        self.overlap_decay = check_rate("overlap_decay", overlap_decay, "(0, 1]")
        self.protect_rate = check_rate("protect_rate", protect_rate, "[0, 1)")
        self.select_by = check_choice("select_by", select_by, SELECT_BY)
        self.ranking = check_choice("ranking", ranking, ("per_tensor", "global"))
        self.dynamics = check_choice("dynamics", dynamics, ("sparse", "reference"))
        self.classifier = classifier
        self.keep_scores = keep_scores
        self.seed = torch.initial_seed() if seed is None else seed
        self.verbose = verbose
        check_choice("objective", objective, ("mi", "cross_entropy"))
        temperature = check_rate("temperature", temperature, "(0, inf)")
        batches = check_integer("batch_size", batch_size, 2), second_view(view), self.seed
        forward = Forward(precision, chunk_size, compile=compile)
        self.objective: Objective = (
            MIObjective(temperature, *batches, forward)
            if objective == "mi"
            else CrossEntropyObjective(*batches, forward)
        )

        self.selection: Selection | None = None
        self.sensitivity: dict[str, Tensor] = {}
        self.tuning_losses: list[float] = []
        self.overlaps: list[float] = []
        self.history = SelectionHistory()
        self._to_protect: dict[str, Entries] = {}  # after this experience
        self._guard: StepGuard | None = None
        self._owner: weakref.ref[Any] | None = None
        self._updated: float | Tensor = 0.0
        self._experience = -1
        self._warm = False
        self._tuned = False
        self._scored: dict[str, torch.Size] = {}  # the backbone that the selection is of
        self.keeper: Keeper | None = None  # a Checkpoint
        self._begun: dict[str, Any] = {}  # what an earlier process did of the tuning

    @classmethod
    def for_backbone(
        cls, name: str, *, drift_compensation: bool = False, **changes: Any
    ) -> MISTPlugin:
        """The plugin with the tuning defaults of a backbone, and some of them changed.

        Args:
            name: of :func:`~mist_avalanche.models.backbones.create_backbone`.
            drift_compensation: those for a strategy that compensates drift.
            changes: arguments of the plugin.
        """
        defaults = backbone_defaults(name).mist_for(drift_compensation=drift_compensation)
        return cls(**{**defaults, **changes})

    @property
    def updated_fraction(self) -> float:
        """Backbone entries that the last step changed / all backbone entries."""
        if self._guard is not None and self._guard.changed is not None:
            return float(self._guard.changed) / self._guard.entries.total
        return float(self._updated)

    def state_dict(self) -> dict[str, Any]:
        """What the plugin knows between two experiences, as tensors and plain data."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            **plain,
            "updated": self.updated_fraction,
            "scored": {name: [*shape] for name, shape in self._scored.items()},
            "selection": self.selection and self.selection.state_dict(),
            "to_protect": {n: entries.state_dict() for n, entries in self._to_protect.items()},
            "history": self.history.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a plugin with the same arguments."""
        self._release()
        saved = state["selection"]
        self.selection = None if saved is None else Selection.from_state_dict(saved)
        self._to_protect = {n: Entries.from_state_dict(e) for n, e in state["to_protect"].items()}
        self.history.load_state_dict(state["history"])
        self.objective.load_state_dict(state["objective"])
        self._scored = {name: torch.Size(shape) for name, shape in state["scored"].items()}
        self._updated = float(state["updated"])
        for name, kind in _PLAIN.items():
            if not isinstance(state[name], kind):
                raise ValueError(f"{name.lstrip('_')} is no {kind.__name__}")
            setattr(self, name, kind(state[name]))
        self.objective.seed = self.seed

    # ---- Avalanche's hooks -------------------------------------------------------------------

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse an experience without images."""
        check_not_empty(strategy.experience)

    def before_training_exp(self, strategy: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Score, select and tune when due; then guard what is not to move."""
        self._check_owner(strategy)
        self._experience += 1
        self._release()
        self._begun = self.keeper.take_up(strategy) if self.keeper else {}
        extract = feature_extractor(strategy, self.classifier, self.seed)
        if self.selection is not None and not extract.backbone():
            self._start_guard(strategy, extract)  # the strategy has frozen what MIST tuned
            return
        extract.check_trainable()
        score, epochs = self._due(strategy)
        with advice("MIST's batches", _SMALLER):
            if self.projection_epochs and not self._warm and (score or epochs):
                self._warm_up(strategy, extract, num_workers)
            if score and "tuning" not in self._begun:
                self._score(strategy, extract, num_workers)
                self._select(strategy, extract)
            if score and self.selection is not None:
                self._publish(strategy, "selected_fraction", self.selection.fraction)
            if epochs:
                self._tune(strategy, extract, epochs, num_workers)
        self._start_guard(strategy, extract)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Mask and drop the strategy's own backbone gradients."""
        if not bool(torch.isfinite(strategy.loss).all()):
            raise FloatingPointError(
                f"The strategy's loss is {strategy.loss.tolist()} in experience "
                f"{self._experience}, epoch {strategy.clock.train_exp_epochs}, step "
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
        self.history.protect(self._to_protect)

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """See to the rest once more, for plugins that come later; after training, for good."""
        if self._guard is not None and not self._guard.training:
            self._release()
        self.settle()

    def settle(self) -> None:
        """Put back what other plugins have moved though it is not selected, with a warning."""
        if self._guard is not None:
            self._guard.check()

    # ---- The method --------------------------------------------------------------------------

    def _warm_up(self, strategy: Any, extract: FeatureExtractor, num_workers: int) -> None:
        """Train the projection alone, so that scores and steps have a direction."""
        seed = self._seed_for(_WARM)
        with self.objective.on(strategy, extract, seed, num_workers, training=False) as run:
            sgd = ProjectionSGD(list(run.head.parameters()), projection_lr=self.projection_lr)
            keeping = self._keeping(strategy, "projection")
            run_epochs(run, sgd, self.projection_epochs, what="MIST projection", **keeping)
        self._warm = True

    def _score(self, strategy: Any, extract: FeatureExtractor, num_workers: int) -> None:
        """How sensitive every entry is to the objective on this experience."""
        seed = self._seed_for(_SCORE)
        with self.objective.on(strategy, extract, seed, num_workers, training=False) as run:
            bar = tqdm(run.batches, "MIST score", disable=not self.verbose, leave=False)
            scores = gradient_scores if self.select_by == "gradient" else fisher_scores
            self.sensitivity = scores(
                run.loss_of, bar, extract.backbone(), protected=self.history.protected
            )

    def _select(self, strategy: Any, extract: FeatureExtractor) -> None:
        """The entries that may move from here on."""
        backbone, scores = extract.backbone(), self.sensitivity
        if self.select_by == "random":
            scores = random_scores(scores, self._seed_for(_SCORE))
        elif self.select_by == "magnitude":
            scores = {name: backbone[name].detach().abs() for name in scores}
        fixed = always_selected(extract.model)
        always = {name for name in scores if id(backbone[name]) in fixed}
        if (earlier := self.selection) is not None:
            self.history.record(earlier)
        self.selection = select(
            scores,
            self.select_rate,
            always,
            within_budget=self.dynamics == "sparse",
            ranking=self.ranking,
        )
        self._scored = {name: p.shape for name, p in backbone.items()}
        if self.protect_rate:
            self._to_protect = most_sensitive(
                self.sensitivity, self.protect_rate, self.selection.always
            )
        kept = self.sensitivity if self.keep_scores else {}
        self.sensitivity = {name: score.cpu() for name, score in kept.items()}
        if earlier is not None:
            self.overlaps.append(self.selection.overlap(earlier))

    def _due(self, strategy: Any) -> tuple[bool, int]:
        """Whether to score before this experience, and passes of tuning."""
        experience = strategy.experience
        if not isinstance(experience, OnlineCLExperience):
            score = self.score_on == "every" or self.selection is None
            epochs = self._epochs_due(strategy)
            if score or epochs:
                check_experience(experience, self._experience)
            return score, epochs
        if self.selection is not None:
            return False, 0
        images, classes = len(experience.dataset), len(classes_of(experience))
        enough = self.objective.batch_size if self.tune_epochs else 2
        if images >= enough and classes > 1:
            return True, self.tune_epochs
        if self._experience == 0:
            warnings.warn(
                f"This part of an online stream has {images} image(s) of {classes} class(es). "
                "MISTPlugin scores and tunes once, on the first part of two classes and at least "
                f"{enough} images (batch_size); until then the backbone rests. "
                "Lower batch_size, or train on a whole experience before the stream.",
                stacklevel=2,
            )
        return False, 0

    def _epochs_due(self, strategy: Any) -> int:
        """Passes of tuning before this experience."""
        if not self._tuned:
            return self.tune_epochs
        if (self.tune_on or getattr(strategy, "tune_on", "every")) == "first":
            return 0
        return self.tune_epochs if self.later_epochs is None else self.later_epochs

    def _tune(
        self, strategy: Any, extract: FeatureExtractor, epochs: int, num_workers: int
    ) -> None:
        """Sparse tuning on the objective."""
        seed = self._seed_for(_TUNE)
        sgd = SparseSGD if self.dynamics == "sparse" else ReferenceSGD
        what = f"MIST tuning before experience {self._experience}"
        with self.objective.on(strategy, extract, seed, num_workers, training=True) as run:
            stepper = sgd(
                **self._dropping(extract, _TUNE, strategy.device),
                projection=list(run.head.parameters()),
                lr=self.lr,
                projection_lr=self.projection_lr,
            )
            total, keeping = stepper.entries.total, self._keeping(strategy, "tuning")
            report = run_epochs(run, stepper, epochs, what=what, total=total, **keeping)
        if stepper.changed is not None:
            self._updated = stepper.changed / stepper.entries.total
        self._tuned = True
        self.tuning_losses = report.losses
        self._publish(strategy, "tuning_loss", report.losses[-1])
        self._publish(strategy, "updated_fraction", report.updated_fraction)

    # ---- What these need ---------------------------------------------------------------------

    def _keeping(self, strategy: Any, stage: str) -> dict[str, Any]:
        """Who keeps the state of some epochs, and what was kept."""
        kept = {"keeper": self.keeper, "begun": self._begun}
        return {**kept, "strategy": strategy, "stage": stage, "verbose": self.verbose}

    def _start_guard(self, strategy: Any, extract: FeatureExtractor) -> None:
        """From here on nothing before the classifier moves but what is selected."""
        if not getattr(strategy, "masks_steps", True):
            return  # the strategy trains the whole backbone itself, and says so
        dropping = self._dropping(extract, _HOST, strategy.device, frozen=True)
        names = {*dropping["entries"].names}
        self._guard = StepGuard(
            **dropping,
            others={name: p for name, p in extract.everything().items() if name not in names},
            classifier=extract.classifier,
            restore=self.dynamics == "sparse",
        )
        self._guard.attach(strategy.optimizer)

    def _dropping(
        self,
        extract: FeatureExtractor,
        purpose: int,
        device: torch.device,
        *,
        frozen: bool = False,
    ) -> dict[str, Any]:
        """Entries that may move now, and how their gradients are dropped and scaled.

        With ``frozen``, those of parameters that were scored and require no gradient now, too.
        """
        backbone = extract.backbone()
        if self.selection is None:  # an online stream whose parts were too small so far
            none = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in backbone.items()}
            movable = {name: Entries.of(mask) for name, mask in none.items()}
        else:
            self._check_same(backbone)
            if frozen:
                known = extract.everything().items()
                backbone = {n: p for n, p in known if self._scored.get(n) == p.shape}
            movable = self.history.movable(self.selection)
        entries = SelectedEntries(backbone, movable)
        return {
            "entries": entries,
            "drop_rate": self.drop_rate,
            "generator": torch.Generator(device).manual_seed(self._seed_for(purpose, 1)),
            "decay": self.history.decay(entries, self.overlap_decay),
        }

    def _check_same(self, backbone: Mapping[str, Tensor]) -> None:
        """ValueError where the selection is of another backbone."""
        other = [n for n, p in backbone.items() if self._scored.get(n) != p.shape]
        if other:
            raise ValueError(
                f"The backbone has changed since it was scored: {', '.join(other[:4])} would move "
                "unmasked. Use MISTPlugin(score_on='every'), or let the backbone have its final "
                "shape and requires_grad before the first experience."
            )

    def _seed_for(self, purpose: int, *path: int) -> int:
        return derive_seed(self.seed, purpose, self._experience, *path)

    def _publish(self, strategy: Any, name: str, value: float) -> None:
        """Send a number to the strategy's loggers."""
        strategy.evaluator.publish_metric_value(
            MetricValue(self, f"MIST/{name}", value, self._experience)
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

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which go with a copy of the strategy."""
        return {**vars(self), "_owner": None}

    def _release(self) -> None:
        """Let go of the strategy's optimizer and free the copy of the backbone."""
        if self._guard is not None:
            self._updated = self.updated_fraction
            guard, self._guard = self._guard, None
            guard.detach()
            guard.check()
