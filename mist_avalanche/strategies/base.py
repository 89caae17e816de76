"""Base class of all strategies here: pretrained backbone and head, cached features, state."""

import inspect
from abc import ABC
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args, get_type_hints

import torch
from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..models.backbone_with_head import BackboneWithHead
from ..models.classifier import without_classifier
from ..models.forward import Forward
from ..utils import in_mode, is_plain, state_hash


class Common(TypedDict, total=False):
    """Keyword arguments that every strategy here takes in addition to its own.

    Args:
        criterion: loss of logits and labels; None for the cross-entropy.
        eval_mb_size: images per batch in evaluation; does not affect results.
        device: device of the model.
        plugins: Avalanche plugins, such as :class:`~mist_avalanche.MISTPlugin`.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.
        precision: backbone precision: ``"32"`` or ``"bf16"`` (autocast; heads and losses: float32).
        cache: keep features of test images in memory while the backbone does not change. Use False
            if the eval transform is random or a plugin changes test images.
    """

    criterion: nn.Module | None
    eval_mb_size: int
    device: str | torch.device
    plugins: Sequence[SupervisedPlugin] | None
    evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None
    eval_every: int
    precision: Literal["32", "bf16"]
    cache: bool


class Features(NamedTuple):
    """Features (n, ...), labels (n,) and task labels (n,) of n images."""

    features: Tensor
    labels: Tensor
    tasks: Tensor


class PretrainedStrategy(SupervisedTemplate, ABC):
    """An Avalanche strategy around a pretrained backbone.

    No optimizer, number of classes, order of classes or task labels are needed. If a backbone from
    timm, torchvision or Avalanche still has its classifier, it is removed with a warning.

    Args:
        model: backbone and head, images to logits.
        train_mb_size: images per batch in training.
        train_epochs: epochs over the training images of an experience.
        common: see :class:`Common`.

    Attributes:
        tune_on: before which experiences a MISTPlugin tunes by default.
        follows_tuning: False if what is learned depends on one state of the backbone, so that a
            MISTPlugin must not tune before every experience.
        masks_steps: whether a MISTPlugin masks the steps of the strategy's own training.

    Raises:
        TypeError: an argument is unknown.
        ValueError: the backbone's features depend on task labels, or its classifier grows.
    """

    tune_on: str = "every"
    follows_tuning: bool = True
    masks_steps: bool = True

    model: Any
    dataloader: Any

    if not TYPE_CHECKING:  # it would hide the arguments of __init__ from type checkers

        def __new__(cls, **kwargs: Any) -> Any:
            """Store the arguments, which a :class:`~mist_avalanche.runs.Checkpoint` compares."""
            strategy = super().__new__(cls)
            own = {k: v for k, v in kwargs.items() if k not in Common.__annotations__}
            strategy.arguments = {k: v for k, v in own.items() if is_plain(v)}
            return strategy

    def __init__(
        self,
        *,
        model: BackboneWithHead,
        train_mb_size: int,
        train_epochs: int,
        criterion: nn.Module | None = None,
        eval_mb_size: int = 64,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        precision: Literal["32", "bf16"] = "32",
        cache: bool = True,
    ) -> None:
        without_classifier(model.backbone, type(self).__name__)
        model.run_backbone = Forward(precision)
        self._cache = FeatureCache() if cache else None
        super().__init__(
            model=model,
            optimizer=None,
            criterion=criterion or nn.CrossEntropyLoss(),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
        )
        self.model.to(self.device)  # Avalanche does this only in training

    @property
    def backbone(self) -> Any:
        """The pretrained backbone, from images to features; a MISTPlugin tunes it."""
        return self.model.backbone

    @property
    def head(self) -> Any:
        """The classifier on the features."""
        return self.model.head

    def state_dict(self) -> dict[str, Any]:
        """Everything the strategy has learned, as tensors and plain data."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict` of a strategy that was created with the same arguments."""
        self.model.load_state_dict(state["model"])
        self.forget_features()

    def make_optimizer(self, **kwargs: Any) -> None:
        """Do nothing: Avalanche's optimizer is not used."""

    def _make_empty_loss(self) -> Tensor:
        """Zero loss in the model's dtype; Avalanche sums losses in float32."""
        return next(self.model.parameters()).new_zeros(1)

    def refuse_online_parts(self) -> None:
        """Raise a ValueError if the experience is part of an online stream."""
        if isinstance(self.experience, OnlineCLExperience):
            raise ValueError(
                f"{type(self).__name__} trains for several epochs on a whole experience and cannot "
                "take parts of an online stream. Train on the benchmark's own train_stream."
            )

    # ---- Features ----------------------------------------------------------------------------

    def extract(
        self, dataset: Any, run: Callable[[Tensor], Tensor], num_workers: int = 0
    ) -> Features:
        """Apply ``run`` to the images of a dataset, in order."""
        loader = DataLoader(
            dataset,
            batch_size=self.eval_mb_size,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=dataset.collate_fn,
            generator=torch.Generator(),  # evaluation does not touch the global random stream
        )
        return self.collect(loader, run)

    @torch.no_grad()
    def collect(self, batches: Iterable[Any], run: Callable[[Tensor], Tensor]) -> Features:
        """Apply ``run`` to the images of batches (x, y, ...), in evaluation mode."""
        rows = []
        with in_mode(self.model, training=False):
            for x, y, *rest in batches:
                tasks = rest[-1] if rest else torch.zeros_like(y)
                rows.append((run(x.to(self.device)), y.to(self.device), tasks.to(self.device)))
        return Features(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    def cached(
        self, dataset: Any, key: Hashable, run: Callable[[Tensor], Tensor], num_workers: int
    ) -> Features:
        """:meth:`extract` for the current test set, from the cache if the key is in it.

        Without a cache, the images are used as plugins have adapted them.
        """
        if self._cache is None:
            return self.extract(self.adapted_dataset, run, num_workers)
        if (id(dataset), key) not in self._cache:
            found = self.extract(dataset.eval(), run, num_workers)
            self._cache[id(dataset), key] = dataset, found  # keeps the id from being reused
        return self._cache[id(dataset), key][1]

    def forget_features(self) -> None:
        """Drop cached features after a change to anything other than the backbone's weights."""
        if self._cache is not None:
            self._cache.clear()

    def _before_eval(self, **kwargs: Any) -> None:
        """Drop cached features if any bit of the backbone has changed."""
        super()._before_eval(**kwargs)
        if self._cache is not None and self._cache.backbone != (now := state_hash(self.backbone)):
            self._cache.clear()
            self._cache.backbone = now


class FeatureCache(dict[tuple[int, Hashable], tuple[Any, Features]]):
    """Features of test images, by dataset and key; copies start empty."""

    backbone = b""  # hash of the backbone that computed them

    def __deepcopy__(self, memo: Any) -> "FeatureCache":
        return FeatureCache()


class FeatureBatches(list[list[Tensor]]):
    """Batches [features, labels, task labels] of features that are already extracted."""

    def __init__(self, features: Features, batch_size: int) -> None:
        parts = (torch.split(part, batch_size) for part in features)
        super().__init__([*batch] for batch in zip(*parts, strict=True))


def arguments_of(function: Any) -> dict[str, Any]:
    """Defaults of the keyword arguments of a class or function, including those it passes on.

    ``**common: Unpack[Common]`` lists the latter; untyped ones are those of the parent class. An
    argument without a default has ``inspect.Parameter.empty``.
    """
    inits = [function]
    if isinstance(function, type):
        inits = [vars(c)["__init__"] for c in function.mro() if "__init__" in vars(c)]
    signatures = [inspect.signature(init).parameters.values() for init in inits]
    defaults = {p.name: p.default for parameters in reversed(signatures) for p in parameters}
    names = set[str]()
    for init, parameters in zip(inits, signatures, strict=True):
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        passed_on = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if passed_on is None:
            break
        annotation = passed_on.annotation  # for typing's own Unpack, its origin has the name
        if "Unpack" in f"{annotation} {getattr(annotation, '__origin__', None)}":
            (common,) = get_args(get_type_hints(init)[passed_on.name])
            names |= common.__annotations__.keys()
            break
    return {name: defaults[name] for name in names - {"self"}}
