"""Strategies that train prompts of a frozen ViT, and a linear classifier."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from .._support.checks import (
    check_choice,
    check_integer,
    check_not_empty,
    check_rate,
    classes_of,
)
from .._support.distributed import join_rows, share, sum_over_processes, world_size
from .._support.memory_use import advice
from ..models.attached import without_classifier
from ..models.heads import BackboneWithHead
from ..models.linear_head import GrowingLinear
from ..models.prompts import PromptedViT, PromptModule, check_blocks, vit_depth
from ..plugin import MISTPlugin
from ._arrivals import Arrivals, OwnOptimizer, whole_of
from ._loop import LossOfModel, among_own
from ._queries import Queries, query_of
from ._seeded_loader import seeded

SCHEDULES = ("constant", "cosine")


class PromptStrategy(OwnOptimizer, LossOfModel, SupervisedTemplate, ABC):
    """Trains a prompt module and a growing linear classifier on a frozen ViT, in Avalanche's loop.

    In training the softmax is over the classes of the present experience alone, so that rows of
    earlier classes stay as they are, bit for bit. Every experience has a new Adam and a new
    schedule. While the ViT is the same, the queries of an image to evaluate are computed once.

    Args:
        model: the ViT.
        prompts: its prompt module.
        head_std: see :class:`~mist_avalanche.models.linear_head.GrowingLinear`.
        lr, schedule, clip_grad_norm, criterion, precision, cache_mb, kwargs: as for
            :class:`~mist_avalanche.strategies.L2P`.
    """

    modules_in_state = ("prompts",)  # of the model, which state_dict has and a checkpoint need not
    masks_steps = False  # while it trains, the backbone is frozen as a whole
    tune_on = "first"  # nothing here follows a backbone that moves later

    def __init__(
        self,
        *,
        model: nn.Module,
        prompts: PromptModule,
        head_std: float | None,
        lr: float,
        schedule: str,
        clip_grad_norm: float | None,
        criterion: nn.Module | None,
        precision: str,
        cache_mb: int,
        **kwargs: Any,
    ) -> None:
        if "optimizer" in kwargs:
            raise TypeError(
                f"{type(self).__name__} has no argument 'optimizer': every experience has a new "
                "Adam. Give `lr` and `schedule`."
            )
        check_integer("train_epochs", kwargs["train_epochs"], 1)
        self.lr = check_rate("lr", lr, "(0, inf)")
        self.schedule = check_choice("schedule", schedule, SCHEDULES)
        self.clip_grad_norm = (
            None
            if clip_grad_norm is None
            else check_rate("clip_grad_norm", clip_grad_norm, "(0, inf)")
        )
        weights = next(model.parameters())
        head = GrowingLinear(prompts.n_features, head_std).to(weights)
        prompted = PromptedViT(model, prompts.to(weights), head, precision)
        super().__init__(
            model=prompted,
            optimizer=None,
            criterion=criterion or nn.CrossEntropyLoss(),
            **kwargs,
        )
        if any(isinstance(p, MISTPlugin) and p.options.tune_on == "every" for p in self.plugins):
            raise ValueError(
                f"{type(self).__name__} cannot go along with a backbone that is tuned before every "
                "experience: prompts, keys and classifier are of the features that they were "
                "trained on. Use MISTPlugin(tune_on='first') (--mist-arg tune_on=first)."
            )
        # What MIST scores and tunes: the ViT without prompts, as it gives the queries.
        self.model_to_tune = BackboneWithHead(model, head)
        self._tunable = [p for p in model.parameters() if p.requires_grad]
        self._classes = []
        self._arrivals = Arrivals()
        self._queries = Queries(prompted, cache_mb)
        self._unchanged: Any = None

    def state_dict(self) -> dict[str, Any]:
        """The prompts; the model's own state has the ViT and the classifier."""
        return {"prompts": self.prompts.state_dict(), "part": self.part_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy with the same arguments."""
        self.prompts.load_state_dict(state["prompts"])
        self._queries.clear()
        self.load_part_state(state.get("part"))

    @property
    def prompts(self) -> Any:
        """The prompt module."""
        return self.model.prompts

    # ---- An experience -----------------------------------------------------------------------

    dataloader: Any

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Grow head and prompts; let plugins, which come right after, see a ViT that can train."""
        check_not_empty(self.experience)
        if self._arrivals.begins(self.experience):
            self._classes = classes_of(whole_of(self.experience))
            self._arrivals.begin(self.experience)
            self.model = self.model_adaptation()
            self.prompts.begin_experience()
            self.prompts.to(self.device)
            self.optimizer = None
        self.prompts.requires_grad_(False)
        for p in self._tunable:
            p.requires_grad_(True)

    def _before_training_exp(self, **kwargs: Any) -> None:
        """Plugins may tune the plain ViT here; then it is frozen, and the rest is to train."""
        super()._before_training_exp(**kwargs)
        self.dataloader = seeded(self.dataloader, self)
        self.model.backbone.requires_grad_(False)
        for p in self._trained():
            p.requires_grad_(True)
        if self.optimizer is None:  # else it is of an earlier part of an online experience
            self.optimizer = self.new_optimizer()

    def _trained(self) -> list[nn.Parameter]:
        return [*self.prompts.training_parameters(), *self.model.head.parameters()]

    def new_optimizer(self) -> torch.optim.Adam:
        """Adam of the prompts that train and the classifier."""
        return torch.optim.Adam(self._trained(), lr=self.lr)

    def make_optimizer(self, **kwargs: Any) -> None:
        """Every experience has a new one, once plugins have run."""

    def _before_training_epoch(self, **kwargs: Any) -> None:
        rate = rate_of_epoch(self.schedule, self.clock.train_exp_epochs, self.train_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rate
        super()._before_training_epoch(**kwargs)

    def forward(self) -> Tensor:
        """Logits (B, C) of the mini-batch; in training -inf for other experiences' classes."""
        logits: Tensor = self.model.head(self._features())
        return among_own(logits, self._classes, self.mb_y) if self.is_training else logits

    def _obtain_common_dataloader_parameters(self, **kwargs: Any) -> Any:
        """Every process has whole batches, of which it takes its share in :meth:`_features`."""
        arguments: dict[str, Any] = super()._obtain_common_dataloader_parameters(**kwargs)
        if world_size() > 1 and (self.is_eval or hasattr(self.experience, "task_labels")):
            arguments["distributed_sampling"] = False
        return arguments

    def _features(self) -> Tensor:
        """Features (B, D) of the current mini-batch; of several processes each has its share.

        A process without an image of its own takes one that does not count.
        """
        own = share(len(self.mb_x))
        rows = slice(own.start, own.stop) if own else slice(0, 1)
        query = query_of(self.dataloader)
        features: Tensor = self.model.features(
            self.mb_x[rows], None if query is None else query[rows]
        )
        return join_rows(features[: len(own)])

    def criterion(self) -> Tensor:
        """Cross-entropy, in training with the loss of the prompts."""
        loss: Tensor = super().criterion()
        if not self.is_training:
            return loss
        extra: Tensor = self.model.attached.loss * (len(share(len(self.mb_x))) / len(self.mb_x))
        others = sum_over_processes(extra.detach().clone()) - extra.detach()
        return loss + (extra + others)

    def backward(self) -> None:
        """Gradients of the whole batch: those of the classifier are, each process has all rows."""
        super().backward()
        if world_size() > 1:
            for p in self.prompts.training_parameters():
                grad = torch.zeros_like(p) if p.grad is None else p.grad
                p.grad = sum_over_processes(grad)

    def optimizer_step(self) -> None:
        """Clip the gradient's norm, and step."""
        if self.clip_grad_norm is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.clip_grad_norm)
        self.optimizer.step()

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        if self._arrivals.add(self.experience):
            self._arrivals.end()
            self.optimizer.zero_grad()
            self.optimizer = None

    # ---- Evaluation --------------------------------------------------------------------------

    def _before_eval(self, num_workers: int = 0, **kwargs: Any) -> None:
        super()._before_eval(num_workers=num_workers, **kwargs)
        smaller = "Lower eval_mb_size; it changes no result."
        with advice("a batch of images", smaller):
            self._queries.prepare(self.current_eval_stream, self.eval_mb_size, num_workers)

    def eval_dataset_adaptation(self, **kwargs: Any) -> None:
        """The experience under the eval transform."""
        super().eval_dataset_adaptation(**kwargs)
        self._unchanged = self.adapted_dataset

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Images, with their queries where these are of the same images."""
        super().make_eval_dataloader(**kwargs)
        if self.adapted_dataset is self._unchanged:
            self.dataloader = self._queries.beside(self.dataloader, self.experience.dataset)

    def _after_eval(self, **kwargs: Any) -> None:
        super()._after_eval(**kwargs)
        self._queries.put_away()


def rate_of_epoch(schedule: str, epoch: int, epochs: int) -> float:
    """The share of the learning rate in an epoch, counted from 0.

    ``"cosine"`` is CODA-Prompt's: cos(99π · max(e - 1, 0) / (200 (E - 1))), which stays at 1 for
    two epochs, and at 1 where there is one epoch alone.
    """
    if schedule == "constant" or epochs < 2:
        return 1.0
    return math.cos(99 * math.pi * max(epoch - 1, 0) / (200 * (epochs - 1)))


def plain_vit(model: nn.Module, strategy: str) -> tuple[int, int]:
    """Width D and number of blocks of a ViT; the classifier that it still has is taken off.

    Raises:
        ValueError: prompts cannot be attached to the model.
    """
    depth = vit_depth(model)
    without_classifier(model, strategy)
    vit: Any = model
    return int(vit.embed_dim), depth


def blocks_of(
    name: str, blocks: Sequence[int] | None, published: Sequence[int], depth: int
) -> tuple[int, ...]:
    """The blocks asked for, or of the published ones those that a ViT of some depth has.

    Raises:
        ValueError: the ViT does not have them, or has none.
    """
    chosen = [b for b in published if b < depth] if blocks is None else blocks
    if not chosen:
        raise ValueError(
            f"Got no `{name}`; the published ones are {list(published)}, and this ViT has {depth} "
            f"blocks. Give `{name}`, numbers from 0 to {depth - 1}."
        )
    return check_blocks(name, chosen, depth)
