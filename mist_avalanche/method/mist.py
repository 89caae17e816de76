"""MIST on one experience after another: Algorithm 1 of the paper (arXiv 2505.19943).

Differences from the published code:
    * Only kept entries move. There, weight decay and momentum move all entries.
    * The budget covers all entries together. There, the rate applies per tensor, and biases and
      normalisation weights come on top.
    * Ties do not widen the selection, and zero scores are not selected. There, a tensor without
      gradient is selected as a whole.
    * The projection always trains. There, its gradients are dropped too.
    * Scores are computed in evaluation mode, so that no buffer and no random stream changes.
    * ``tune_epochs`` counts tuning epochs. There, the score pass is the first of ``mi_epochs``.
    * A last batch of one image is left out, because it has nothing to contrast with.

``dynamics="reference"`` restores the first, second and fourth behaviour of the published code.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..models.classifier import FeatureExtractor, always_selected
from ..models.forward import Forward
from ..utils import callers_level, derive_seed, in_mode, isolated_rng
from .flat import own_memory
from .objective import CrossEntropyObjective, MIObjective, Objective
from .options import MISTOptions
from .selection import Masks, Selection, SelectionHistory, most_sensitive, random_scores, select
from .sensitivity import finite_mean, fisher_scores, gradient_scores
from .sparse_sgd import ReferenceSGD, SparseSGD
from .views import second_view


class MIST:
    """Mutual Information-guided Sparse Tuning of a backbone.

    Args:
        options: see :class:`MISTOptions`.

    Attributes:
        experience: index of the current experience, from 0.
        selection: the entries that may move; None before the first score.
        sensitivity: scores of the last score pass by parameter name, on the CPU.
        history: earlier selections and protected entries.
        overlaps: for each selection after the first, the share that was also in the previous one.
        losses: for each tuning, the mean loss of each epoch.
        updated_fraction: share of the backbone's entries that the last step changed.
    """

    def __init__(self, options: MISTOptions) -> None:
        self.options = options
        self.seed = torch.initial_seed() if options.seed is None else options.seed
        self.objective: Objective = (
            MIObjective(self.seed, options.temperature)
            if options.objective == "mi"
            else CrossEntropyObjective(self.seed)
        )
        self.second_view = second_view(options.view)
        self.forward = Forward(options.precision, options.chunk_size, compile=options.compile)
        self.history = SelectionHistory()
        self.selection: Selection | None = None
        self.sensitivity: dict[str, Tensor] = {}
        self.overlaps: list[float] = []
        self.losses: list[list[float]] = []
        self.updated_fraction = 0.0
        self.experience = -1
        self._to_protect: Masks = {}

    # ---- Algorithm 1 -------------------------------------------------------------------------

    def run(
        self,
        extract: FeatureExtractor,
        dataset: Any,
        classes: list[int],
        device: torch.device,
        *,
        score: bool,
        epochs: int,
        num_workers: int = 0,
    ) -> None:
        """Score, select and tune on one experience.

        Args:
            extract: returns the features, with gradient; its backbone is tuned.
            dataset: images under the training transform, items (x, y, ...).
            classes: labels in the dataset.
            device: device of the model.
            score: whether to score and select; if False, the last selection is used.
            epochs: epochs of tuning; 0 for none.
            num_workers: number of workers of the data loader.

        Raises:
            FloatingPointError: a loss is not finite; no weight has moved in that step, unless
                ``dynamics="reference"``.
        """
        options, backbone = self.options, extract.backbone()
        draw = torch.Generator().manual_seed(self._seed_for(0))
        batches = DataLoader(
            dataset,
            options.batch_size,
            shuffle=True,
            drop_last=len(dataset) % options.batch_size == 1,  # one image has no contrast
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=getattr(dataset, "collate_fn", None),
            generator=draw,
        )
        head = self._prepare(extract, dataset, classes, device)

        def loss_of(batch: list[Tensor]) -> Tensor:
            x, y = (part.to(device, non_blocking=True) for part in batch[:2])
            both = torch.cat([x, self.second_view(x, draw)])  # (2B, C, H, W)
            return self.objective(self.forward(extract, both), y)

        if score:
            with in_mode(extract.model, training=False), self._own_rng(1, device):
                scores_of = gradient_scores if options.select_by == "gradient" else fisher_scores
                scores = scores_of(
                    loss_of, self._bar(batches, "score"), backbone, self.history.protected
                )
            self._select(extract, scores)

        if epochs:
            optimizer = self._optimizer(backbone, head, device)
            means: list[float] = []
            tuned = own_memory([*backbone.values(), *head.parameters()])
            with in_mode(extract.model, training=True), self._own_rng(2, device), tuned:
                for epoch in (bar := self._bar(range(epochs), "tuning")):
                    losses = []
                    for batch in batches:
                        loss = loss_of(batch)
                        optimizer.zero_grad()
                        loss.backward()  # type: ignore[no-untyped-call]
                        optimizer.step()  # v ← 0.9 v + g + 5e-4 θ, θ ← θ - lr v where kept
                        losses.append(loss.detach().float())
                    means.append(
                        finite_mean(losses, f"experience {self.experience}, epoch {epoch}")
                    )
                    bar.set_postfix(loss=f"{means[-1]:.3f}")
            optimizer.zero_grad()
            self.losses.append(means)
            total = sum(p.numel() for p in backbone.values())
            self.updated_fraction = float(optimizer.changed) / total

    def _select(self, extract: FeatureExtractor, scores: dict[str, Tensor]) -> None:
        """Select the most sensitive entries, which may move from now on."""
        options, earlier = self.options, self.selection
        backbone, ranked = extract.backbone(), scores
        if options.select_by == "random":
            ranked = random_scores(scores, self._seed_for(3))
        elif options.select_by == "magnitude":
            ranked = {name: backbone[name].detach().abs() for name in scores}
        whole = always_selected(extract.model)
        self.selection = select(
            ranked,
            options.select_rate,
            {name for name in scores if id(backbone[name]) in whole},
            within_budget=options.dynamics == "sparse",
            ranking=options.ranking,
        )
        if self.selection.fraction < 0.8 * options.select_rate:
            silent = [name for name, score in ranked.items() if not score.any()]
            names = f", all in {len(silent)} tensors ({', '.join(silent[:5])}, …)" if silent else ""
            warnings.warn(
                f"MIST selects {self.selection.fraction:.2%} of the backbone, not "
                f"{options.select_rate:.1%}: many gradients are zero{names}, for example because "
                "the next layer starts at zero. Initialise that layer differently (timm: "
                "zero_init_last=False).",
                stacklevel=callers_level(),
            )
        if earlier is not None:
            self.history.record(earlier)
            self.overlaps.append(self.selection.overlap(earlier))
        if options.protect_rate:
            always = self.selection.always
            self._to_protect = most_sensitive(scores, options.protect_rate, always)
        self.sensitivity = {name: score.cpu() for name, score in scores.items()}

    def protect(self) -> None:
        """Protect the most sensitive entries of a finished experience permanently."""
        self.history.protect(self._to_protect)
        self._to_protect = {}

    def _optimizer(
        self, backbone: Mapping[str, nn.Parameter], head: nn.Linear, device: torch.device
    ) -> SparseSGD | ReferenceSGD:
        """A new optimizer for the selected entries and the projection."""
        options, masks, scales = self.options, self.masks, self.scales
        names = [name for name in backbone if name in masks]
        groups: list[dict[str, Any]] = [
            {
                "params": [backbone[name] for name in names],
                "masks": [masks[name] for name in names],
                "scales": [scales.get(name) for name in names],
            },
            {"params": [*head.parameters()], "lr": options.projection_lr, "drop_rate": 0.0},
        ]
        kind = SparseSGD if options.dynamics == "sparse" else ReferenceSGD
        generator = torch.Generator(device).manual_seed(self._seed_for(4))
        return kind(groups, options.lr, drop_rate=options.drop_rate, generator=generator)

    @property
    def masks(self) -> Masks:
        """Entries that may move now, by name: those selected and not protected."""
        return {} if self.selection is None else self.history.movable(self.selection)

    @property
    def scales(self) -> dict[str, Tensor]:
        """Factors on the gradients by name: ``overlap_decay ** (number of earlier selections)``."""
        return self.history.scales(self.options.overlap_decay)

    # ---- Helpers and state -------------------------------------------------------------------

    @torch.no_grad()
    def _prepare(
        self, extract: FeatureExtractor, dataset: Any, classes: list[int], device: torch.device
    ) -> nn.Linear:
        """The objective's head, for the feature width of the first image."""
        with in_mode(extract.model, training=False), self._own_rng(5, device):
            features = extract(dataset[0][0].unsqueeze(0).to(device))
        return self.objective.prepare(features, classes)

    def _own_rng(self, purpose: int, device: torch.device) -> Any:
        """Context in which transforms and dropout do not consume the host's random streams."""
        return isolated_rng(self._seed_for(purpose), device)

    def _bar(self, steps: Any, what: str) -> Any:
        return tqdm(steps, f"MIST {what}", leave=False, disable=not self.options.verbose or None)

    def _seed_for(self, purpose: int) -> int:
        return derive_seed(self.seed, purpose, self.experience)

    def state_dict(self) -> dict[str, Any]:
        """State between two experiences, as tensors and plain data."""
        return {
            "seed": self.seed,
            "experience": self.experience,
            "selection": self.selection and self.selection.state_dict(),
            "counts": self.history.counts,
            "protected": self.history.protected,
            "objective": self.objective.state_dict(),
            "overlaps": self.overlaps,
            "losses": self.losses,
            "updated_fraction": self.updated_fraction,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict` of a MIST with the same options."""
        saved = state["selection"]
        self.selection = None if saved is None else Selection.from_state_dict(saved)
        self.history.counts = dict(state["counts"])
        self.history.protected = dict(state["protected"])
        self.objective.load_state_dict(state["objective"])
        self.seed = self.objective.seed = state["seed"]
        self.experience, self.updated_fraction = state["experience"], state["updated_fraction"]
        self.overlaps, self.losses = [*state["overlaps"]], [*state["losses"]]
