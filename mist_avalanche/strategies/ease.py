"""EASE: expandable subspace ensemble (Zhou et al., arXiv 2403.12030)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from torch import Tensor, nn

from .._support.checks import check_choice, check_integer, check_rate
from .._support.randomness import derive_seed
from .._support.states import tensors_of
from ..models.alignment import cosine_rate
from ..models.cosine_head import CosineHead
from ..models.heads import BackboneWithHead, PrototypeHead
from ..models.subspace_head import COMPLEMENTS, SubspaceHead
from ..models.subspaces import SubspaceViT
from ._batches import FeatureBatches
from ._loop import QuietEvaluation
from ._own_training import OwnTraining
from ._prompting import plain_vit
from ._subspace_features import SubspaceFeatures
from .feature_cache import fingerprint


class EASE(QuietEvaluation, OwnTraining):
    """Trains an adapter for each experience, and classifies in the subspaces of all of them.

    In an experience a new adapter of the frozen ViT trains, with a cosine classifier that is thrown
    away, by cross-entropy over the experience's own classes: SGD with momentum 0.9 and a cosine
    schedule. Then each new class has its mean under the eval transform in every subspace, and old
    classes get prototypes in the new one from those of other classes
    (:class:`~mist_avalanche.models.subspace_head.SubspaceHead`). An image passes through the ViT
    once a subspace; features of test images are kept until their subspace changes.

    A :class:`~mist_avalanche.MISTPlugin` tunes the ViT before each experience. With each subspace
    the ViT of its time is kept as a sparse delta, and used for its passes, so that no prototype
    goes stale. A class that comes back adds to its means, and belongs to the experience that had it
    first. No optimizer, no number of classes or experiences, no task labels. Defaults are the
    authors' for ViT-B/16 and CIFAR-100.

    Args:
        model: a VisionTransformer of timm, images (B, C, H, W) to features (B, D). The classifier
            that it still has is taken off, with a warning.
        bottleneck: width of an adapter.
        dropout: in the adapter while it trains.
        alpha: α, the weight, divided by the number of subspaces minus 1, of a class's cosines
            outside of its own subspace; None for the cosine of all subspaces in one vector.
        beta: weight of a first block, of the ViT without adapter; None for no such block.
        complement: ``"all"`` makes all missing prototypes anew after each experience, as the
            authors' code; ``"newest"`` those of the newest subspace only, as their text.
        lr: learning rate.
        weight_decay: of adapter and classifier.
        seed: of the start of adapters and classifiers.
        criterion: None for cross-entropy.
        train_mb_size: images in a batch.
        train_epochs: passes over an experience.
        eval_mb_size: images in a batch of evaluation; changes no result.
        device: of the model.
        plugins: Avalanche plugins. In evaluation ``mb_x`` are features (B, S, D) where these are
            kept.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche; classes of an experience are known once it is over.
        precision: of the ViT: ``"32"`` or ``"bf16"`` (autocast; classifiers and loss in float32).
        cache_mb: megabytes of features of test images that stay in memory, more in temporary files.
            0 keeps none; needed where a plugin changes images of a batch in evaluation. Features of
            a random eval transform are never kept.

    Raises:
        ValueError: an argument out of its range, or a backbone that adapters do not fit.
        FloatingPointError: the backbone gives NaN or Inf.

    Example:
        >>> mist = MISTPlugin.for_backbone("embedded", tune_on="every")
        >>> strategy = EASE(model=create_backbone(), bottleneck=16, lr=0.25, plugins=[mist])
        >>> for t, experience in enumerate(benchmark.train_stream):
        ...     strategy.train(experience)
        ...     strategy.eval(benchmark.test_stream[: t + 1])
    """

    modules_in_state = ("adapters", "head", "training_head")
    tune_on = "every"  # each subspace has the backbone of its time
    model: SubspaceViT

    def __init__(
        self,
        *,
        model: nn.Module,
        bottleneck: int = 64,
        dropout: float = 0.1,
        alpha: float | None = 0.1,
        beta: float | None = None,
        complement: Literal["all", "newest"] = "all",
        lr: float = 0.025,
        weight_decay: float = 5e-4,
        seed: int = 0,
        criterion: nn.Module | None = None,
        train_mb_size: int = 48,
        train_epochs: int = 20,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        precision: Literal["32", "bf16"] = "32",
        cache_mb: int = 2000,
        **kwargs: Any,
    ) -> None:
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.weight_decay = check_rate("weight_decay", weight_decay, "[0, inf)")
        self.seed = check_integer("seed", seed, 0)
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if weight is not None:
                check_rate(name, weight, "[0, inf)")
        if alpha is None and beta is not None:
            raise ValueError("`beta` has no effect without `alpha`. Give both, or leave it away.")
        check_choice("complement", complement, COMPLEMENTS)
        self.n_features, _ = plain_vit(model, "EASE")
        settings = {
            "bottleneck": check_integer("bottleneck", bottleneck, 1),
            "dropout": check_rate("dropout", dropout, "[0, 1)"),
        }
        head = SubspaceHead(alpha, beta, complement)
        super().__init__(
            model=SubspaceViT(model, head, precision, settings),
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **kwargs,
        )
        # What MIST scores and tunes: the ViT without adapters.
        self.model_to_tune = BackboneWithHead(model, PrototypeHead())
        self._kept = SubspaceFeatures(check_integer("cache_mb", cache_mb, 0))
        self._states: list[bytes] = []  # fingerprints of the ViT, by subspace
        self._before: dict[str, Tensor] | None = None
        self._told = False
        self._unchanged: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Adapters, classifier, and the states of the ViT; the model's own has the present one."""
        states = [state.hex() for state in self._states]
        own = {"states": states, "told": self._told, "part": self.part_state()}
        return {**self.model.saved(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy with the same arguments."""
        self.model.load_saved(state)
        self._states = [bytes.fromhex(each) for each in state["states"]]
        self._told, self._before = bool(state["told"]), None
        self._kept.clear()
        self.load_part_state(state.get("part"))

    # ---- An experience -----------------------------------------------------------------------

    def begin_experience(self, classes: list[int]) -> None:
        """Room for the classes, and a copy of the ViT before plugins may tune it."""
        self.model = self.model_adaptation()
        if not self._states:
            return
        if fingerprint(self.backbone) != self._states[-1] and not self._told:
            self._told = True
            warnings.warn(
                "The ViT has changed since EASE trained its last adapter, and not by a plugin "
                "before an experience: earlier subspaces have moved along, and their prototypes "
                "have not. Change it in `before_training_exp`, as MISTPlugin does.",
                stacklevel=2,
            )
        self._before = {n: t.detach().clone() for n, t in tensors_of(self.backbone).items()}

    def begin_training(self, classes: list[int]) -> None:
        """A new adapter of the frozen ViT, and a classifier for as long as it trains.

        The classifier has rows for earlier classes too, whose images a plugin may bring along.
        """
        model, t = self.model, len(self._states)
        self.backbone.requires_grad_(False)
        if self._before is not None:
            model.chain.add(self._before, self.backbone)
            self._before = None
        self._states.append(fingerprint(self.backbone))
        model.add_adapter(derive_seed(self.seed, t, 0))
        known = {*classes, *self.head.seen.nonzero().flatten().tolist()}
        numbers = torch.Generator().manual_seed(derive_seed(self.seed, t, 1))
        head = CosineHead(self.n_features, sorted(known), numbers)
        model.training_head = head.to(next(self.backbone.parameters()))
        model.train()

    def trained(self) -> list[dict[str, Any]]:
        """The newest adapter and its classifier."""
        head: Any = self.model.training_head
        trained = [*self.model.adapters[-1].parameters(), *head.parameters()]
        return [{"params": trained, "lr": self.lr}]

    def rate(self, epoch: int) -> float:
        """Cosine."""
        return cosine_rate(epoch, self.train_epochs)

    def training_logits(self, x: Tensor) -> Tensor:
        """Logits (B, C) of images, with the newest adapter."""
        head: Any = self.model.training_head
        features = self.model.adapted(x, len(self.model.adapters) - 1)
        logits: Tensor = head(features, len(self.head.counts))
        return logits

    def end_experience(self, dataset: Any, num_workers: int) -> None:
        """Prototypes in all subspaces."""
        self.model.adapters.requires_grad_(False)
        self.model.training_head = None
        run = partial(self.model.features, blocks=self.model.blocks(len(self.model.adapters)))
        found = self.features_of([dataset], num_workers, run)
        self.head.add_subspace(found.features, found.labels)

    # ---- Evaluation --------------------------------------------------------------------------

    def _before_eval(self, num_workers: int = 0, **kwargs: Any) -> None:
        super()._before_eval(num_workers=num_workers, **kwargs)
        if not self.head.n_subspaces:
            return
        now = fingerprint(self.backbone)
        moved = b"" if now == self._states[-1] else now  # all of them, then
        states = [moved + state for state in self._states]
        take = partial(self.features_of, num_workers=num_workers)
        self._kept.prepare(self.model, states, self.current_eval_stream, take)

    def eval_dataset_adaptation(self, **kwargs: Any) -> None:
        """The experience under the eval transform."""
        super().eval_dataset_adaptation(**kwargs)
        self._unchanged = self.adapted_dataset

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Features that are there; images where a plugin has put in another dataset."""
        found = self._kept.of(self.experience.dataset)
        if found is None or self.adapted_dataset is not self._unchanged:
            super().make_eval_dataloader(**kwargs)
        else:
            self.dataloader = FeatureBatches(found, self.eval_mb_size)

    def evaluation_logits(self, x: Tensor) -> Tensor:
        """Logits (B, C) of features, or of images."""
        known = isinstance(self.dataloader, FeatureBatches)
        logits: Tensor = self.head(x) if known else self.model(x)
        return logits

    def _after_eval(self, **kwargs: Any) -> None:
        super()._after_eval(**kwargs)
        self._kept.put_away()
