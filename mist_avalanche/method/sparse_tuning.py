"""The method on one experience after another: score, select, tune, and what is remembered.

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

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .._support.checks import check_experience, classes_of
from .._support.progress import hidden
from .._support.randomness import derive_seed
from ..models.features import FeatureExtractor, always_selected
from ..models.forward import Forward
from .entries import Entries
from .epochs import run_epochs
from .gradients import SelectedEntries
from .history import SelectionHistory, most_sensitive
from .objective import CrossEntropyObjective, MIObjective, Objective
from .options import MISTOptions
from .selection import Selection, random_scores, select
from .sensitivity import fisher_scores, gradient_scores
from .sgd import ProjectionSGD, ReferenceSGD, SparseSGD
from .tuning import TuningReport
from .views import second_view

_SCORE, _TUNE, HOST, _WARM = 0, 1, 2, 4  # purposes of random numbers; the objective has 3
_PLAIN: Mapping[str, type] = {  # what state_dict has as it is
    **{"seed": int, "experience": int, "warm": bool, "tuned": bool},
    **{"sensitivity": dict, "losses": list, "overlaps": list},
}


class SparseTuning:
    """The paper's Algorithm 1, a step a method.

    Args:
        options: what to do.

    Attributes:
        experience: number of the experience, from 0.
        selection: what may move; None before the first score.
        sensitivity: name to scores of the last score pass; empty without ``keep_scores``.
        overlaps: of each selection after the first, the share that the one before had too.
        losses: mean loss of each epoch, a list a tuning.
        updated: share of the backbone's entries that the last step changed.
        warm, tuned: whether the projection has been warmed up, and the backbone tuned.
    """

    def __init__(self, options: MISTOptions) -> None:
        self.options = options
        self.seed = torch.initial_seed() if options.seed is None else options.seed
        forward = Forward(options.precision, options.chunk_size, compile=options.compile)
        batches = options.batch_size, second_view(options.view), self.seed, forward
        self.objective: Objective = (
            MIObjective(options.temperature, *batches)
            if options.objective == "mi"
            else CrossEntropyObjective(*batches)
        )
        self.history = SelectionHistory()
        self.selection: Selection | None = None
        self.sensitivity: dict[str, Tensor] = {}
        self.overlaps: list[float] = []
        self.losses: list[list[float]] = []
        self.updated = 0.0
        self.experience = -1
        self.warm = self.tuned = False
        self._scored: dict[str, torch.Size] = {}  # the backbone that the selection is of
        self._frozen: list[str] = []  # names of what was not scored with it
        self._to_protect: dict[str, Entries] = {}  # after this experience

    def due(self, experience: Any, tune_on: str) -> tuple[bool, int]:
        """Whether to score before this experience, and passes of tuning."""
        options = self.options
        score = options.score_on == "every" or self.selection is None
        epochs = options.tune_epochs
        if self.tuned and tune_on == "first":
            epochs = 0
        elif self.tuned and options.later_epochs is not None:
            epochs = options.later_epochs
        if score or epochs:
            check_experience(experience, self.experience)
        return score, epochs

    def due_online(self, part: Any) -> tuple[bool, int]:
        """The same before a part of an online stream: once, on the first that is large enough."""
        if self.selection is not None:
            return False, 0
        images, classes = len(part.dataset), len(classes_of(part))
        enough = self.options.batch_size if self.options.tune_epochs else 2
        if images >= enough and classes > 1:
            return True, self.options.tune_epochs
        if self.experience == 0:
            warnings.warn(
                f"This part of an online stream has {images} image(s) of {classes} class(es). "
                "MISTPlugin scores and tunes once, on the first part of two classes and at least "
                f"{enough} images (batch_size); until then the backbone rests. "
                "Lower batch_size, or train on a whole experience before the stream.",
                stacklevel=3,
            )
        return False, 0

    def warm_up(
        self, strategy: Any, extract: FeatureExtractor, num_workers: int, **keeping: Any
    ) -> None:
        """Train the projection alone, so that scores and steps have a direction."""
        seed, epochs = self._seed_for(_WARM), self.options.projection_epochs
        alone = {"training": False, "head_only": True}
        with self.objective.on(strategy, extract, seed, num_workers, **alone) as run:
            sgd = ProjectionSGD(
                list(run.head.parameters()), projection_lr=self.options.projection_lr
            )
            about = {"what": "MIST projection", "stage": "projection", "strategy": strategy}
            run_epochs(run, sgd, epochs, **about, **keeping)
        self.warm = True

    def score(self, strategy: Any, extract: FeatureExtractor, num_workers: int) -> None:
        """How sensitive every entry is to the objective on this experience."""
        seed = self._seed_for(_SCORE)
        scores = gradient_scores if self.options.select_by == "gradient" else fisher_scores
        with self.objective.on(strategy, extract, seed, num_workers, training=False) as run:
            bar = tqdm(run.batches, "MIST score", disable=hidden(self.options.verbose), leave=False)
            backbone, protected = extract.backbone(), self.history.protected
            self.sensitivity = scores(run.loss_of, bar, backbone, protected=protected)

    def select(self, extract: FeatureExtractor) -> None:
        """The entries that may move from here on."""
        options, backbone, scores = self.options, extract.backbone(), self.sensitivity
        if options.select_by == "random":
            scores = random_scores(scores, self._seed_for(_SCORE))
        elif options.select_by == "magnitude":
            scores = {name: backbone[name].detach().abs() for name in scores}
        fixed = always_selected(extract.model)
        always = {name for name in scores if id(backbone[name]) in fixed}
        if (earlier := self.selection) is not None:
            self.history.record(earlier)
        self.selection = select(
            scores,
            options.select_rate,
            always,
            within_budget=options.dynamics == "sparse",
            ranking=options.ranking,
        )
        self._scored = {name: p.shape for name, p in backbone.items()}
        self._frozen = [name for name in extract.everything() if name not in backbone]
        if options.protect_rate:
            self._to_protect = most_sensitive(
                self.sensitivity, options.protect_rate, self.selection.always
            )
        kept = self.sensitivity if options.keep_scores else {}
        self.sensitivity = {name: score.cpu() for name, score in kept.items()}
        if earlier is not None:
            self.overlaps.append(self.selection.overlap(earlier))

    def tune(
        self,
        strategy: Any,
        extract: FeatureExtractor,
        epochs: int,
        num_workers: int,
        **keeping: Any,
    ) -> TuningReport:
        """Sparse tuning on the objective."""
        seed, options = self._seed_for(_TUNE), self.options
        sgd = SparseSGD if options.dynamics == "sparse" else ReferenceSGD
        what = f"MIST tuning before experience {self.experience}"
        with self.objective.on(strategy, extract, seed, num_workers, training=True) as run:
            stepper = sgd(
                **self.dropping(extract, _TUNE, strategy.device),
                projection=list(run.head.parameters()),
                lr=options.lr,
                projection_lr=options.projection_lr,
            )
            total = stepper.entries.total
            about = {"what": what, "stage": "tuning", "strategy": strategy, "total": total}
            report = run_epochs(run, stepper, epochs, **about, **keeping)
        if stepper.changed is not None:
            self.updated = float(stepper.changed) / total
        self.tuned = True
        self.losses.append(report.losses)
        return report

    def protect(self) -> None:
        """Freeze the most sensitive entries of this experience for good."""
        self.history.protect(self._to_protect)

    def dropping(
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
            known = extract.everything() if frozen else backbone
            backbone = {n: p for n, p in known.items() if self._scored.get(n) == p.shape}
            movable = self.history.movable(self.selection)
        entries = SelectedEntries(backbone, movable)
        return {
            "entries": entries,
            "drop_rate": self.options.drop_rate,
            "generator": torch.Generator(device).manual_seed(self._seed_for(purpose, 1)),
            "decay": self.history.decay(entries, self.options.overlap_decay),
        }

    def _check_same(self, backbone: Mapping[str, Tensor]) -> None:
        """ValueError where the selection is of another backbone."""
        other = [
            name
            for name, p in backbone.items()
            if self._scored.get(name) != p.shape and name not in self._frozen
        ]
        if other:
            raise ValueError(
                f"The backbone has changed since it was scored: {', '.join(other[:4])} would move "
                "unmasked. Use MISTPlugin(score_on='every'), or let the backbone have its final "
                "shape and requires_grad before the first experience."
            )

    def _seed_for(self, purpose: int, *path: int) -> int:
        return derive_seed(self.seed, purpose, self.experience, *path)

    def state_dict(self) -> dict[str, Any]:
        """What is known between two experiences, as tensors and plain data."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "updated": self.updated,
            "frozen": self._frozen,
            "scored": {name: [*shape] for name, shape in self._scored.items()},
            "selection": self.selection and self.selection.state_dict(),
            "to_protect": {n: entries.state_dict() for n, entries in self._to_protect.items()},
            "history": self.history.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of one with the same options."""
        saved = state["selection"]
        self.selection = None if saved is None else Selection.from_state_dict(saved)
        self._to_protect = {n: Entries.from_state_dict(e) for n, e in state["to_protect"].items()}
        self.history.load_state_dict(state["history"])
        self.objective.load_state_dict(state["objective"])
        self._frozen = [*state["frozen"]]
        self._scored = {name: torch.Size(shape) for name, shape in state["scored"].items()}
        self.updated = float(state["updated"])
        for name, kind in _PLAIN.items():
            if not isinstance(state[name], kind):
                raise ValueError(f"{name} is no {kind.__name__}")
            setattr(self, name, kind(state[name]))
        self.objective.seed = self.seed
