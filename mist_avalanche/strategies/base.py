"""What all strategies here share: a pretrained backbone with a head, cached features, a state."""

import inspect
from abc import ABC
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args, get_type_hints

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..models.backbone_with_head import BackboneWithHead
from ..models.classifier import without_classifier
from ..models.forward import Forward
from ..utils import in_mode, state_hash


class Common(TypedDict, total=False):
    """Keyword arguments that every strategy here takes besides its own.

    Args:
        criterion: loss of logits and labels; None for the cross-entropy.
        eval_mb_size: images per batch of evaluation; changes no result.
        device: of the model.
        plugins: Avalanche plugins, such as :class:`~mist_avalanche.MISTPlugin`.
        evaluator: Avalanche's evaluation plugin.
        eval_every: as in Avalanche.
        precision: of the backbone: ``"32"`` or ``"bf16"`` (autocast; heads and losses in float32).
        cache: keep features of test images in memory while the backbone stays the same. Give False
            where the eval transform is random or a plugin changes test images.
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

    No optimizer, number of classes, timeline of classes or task labels are needed. A classifier
    that a backbone of timm, torchvision or Avalanche still has is removed, with a warning.

    Args:
        model: backbone and head, images to logits.
        train_mb_size: images per batch of training.
        train_epochs: passes over the training images of an experience.
        common: see :class:`Common`.

    Attributes:
        tune_on: before which experiences a MISTPlugin tunes unless it is told.
        follows_tuning: False where what is learned belongs to one state of the backbone, so that
            a MISTPlugin must not tune before every experience.
        masks_steps: whether a MISTPlugin masks the steps of the strategy's own training.

    Raises:
        TypeError: an unknown argument.
        ValueError: features of the backbone depend on task labels, or its classifier grows.
    """

    tune_on: str = "every"
    follows_tuning: bool = True
    masks_steps: bool = True

    model: Any
    dataloader: Any

    if not TYPE_CHECKING:  # to checkers it would hide the arguments of __init__

        def __new__(cls, **kwargs: Any) -> Any:
            """Remember the arguments, which a :class:`~mist_avalanche.runs.Checkpoint` compares."""
            strategy = super().__new__(cls)
            own = {k: v for k, v in kwargs.items() if k not in Common.__annotations__}
            plain = (bool, int, float, str)
            strategy.arguments = {k: v for k, v in own.items() if isinstance(v, plain)}
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
        self.model.to(self.device)  # which Avalanche does in training only

    @property
    def backbone(self) -> Any:
        """The pretrained backbone, images to features, which a MISTPlugin tunes."""
        return self.model.backbone

    @property
    def head(self) -> Any:
        """The classifier on the features."""
        return self.model.head

    def state_dict(self) -> dict[str, Any]:
        """Everything the strategy has learned, as tensors and plain data."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a strategy that was made with the same arguments."""
        self.model.load_state_dict(state["model"])
        self.forget_features()

    def make_optimizer(self, **kwargs: Any) -> None:
        """Avalanche's optimizer is not used."""

    def _make_empty_loss(self) -> Tensor:
        """Losses are summed in the model's dtype; Avalanche's sum is in float32."""
        return next(self.model.parameters()).new_zeros(1)

    # ---- Features ----------------------------------------------------------------------------

    def extract(
        self, dataset: Any, run: Callable[[Tensor], Tensor], num_workers: int = 0
    ) -> Features:
        """What ``run`` gives for the images of a dataset, in order."""
        loader = DataLoader(
            dataset,
            batch_size=self.eval_mb_size,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=dataset.collate_fn,
            generator=torch.Generator(),  # evaluation leaves the global random stream alone
        )
        return self.collect(loader, run)

    @torch.no_grad()
    def collect(self, batches: Iterable[Any], run: Callable[[Tensor], Tensor]) -> Features:
        """What ``run`` gives for the images of batches (x, y, ...), in evaluation mode."""
        rows = []
        with in_mode(self.model, training=False):
            for x, y, *rest in batches:
                tasks = rest[-1] if rest else torch.zeros_like(y)
                rows.append((run(x.to(self.device)), y.to(self.device), tasks.to(self.device)))
        return Features(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    def cached(
        self, dataset: Any, key: Hashable, run: Callable[[Tensor], Tensor], num_workers: int
    ) -> Features:
        """:meth:`extract` of the test set at hand, from memory if it was there under this key.

        Without a cache these are the images as plugins have left them.
        """
        if self._cache is None:
            return self.extract(self.adapted_dataset, run, num_workers)
        if (id(dataset), key) not in self._cache:
            found = self.extract(dataset.eval(), run, num_workers)
            self._cache[id(dataset), key] = dataset, found  # so that no other gets this id
        return self._cache[id(dataset), key][1]

    def forget_features(self) -> None:
        """Drop cached features, after a change of something other than the backbone's weights."""
        if self._cache is not None:
            self._cache.clear()

    def _before_eval(self, **kwargs: Any) -> None:
        """Drop cached features where the backbone has changed by a bit."""
        super()._before_eval(**kwargs)
        if self._cache is not None and self._cache.backbone != (now := state_hash(self.backbone)):
            self._cache.clear()
            self._cache.backbone = now


class FeatureCache(dict[tuple[int, Hashable], tuple[Any, Features]]):
    """Features of test images, by the dataset and what they are of; copies start empty."""

    backbone = b""  # hash of the backbone that they come from

    def __deepcopy__(self, memo: Any) -> "FeatureCache":
        return FeatureCache()


class FeatureBatches(list[list[Tensor]]):
    """Batches [features, labels, task labels] of features that were extracted before."""

    def __init__(self, features: Features, batch_size: int) -> None:
        parts = (torch.split(part, batch_size) for part in features)
        super().__init__([*batch] for batch in zip(*parts, strict=True))


def arguments_of(function: Any) -> dict[str, Any]:
    """Keyword arguments of a class or function, including those that it passes on: the defaults.

    ``**common: Unpack[Common]`` says which these are; untyped ones are those of the parent class.
    One without a default has ``inspect.Parameter.empty``.
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
        annotation = passed_on.annotation  # in typing's own, its origin has the name
        if "Unpack" in f"{annotation} {getattr(annotation, '__origin__', None)}":
            (common,) = get_args(get_type_hints(init)[passed_on.name])
            names |= common.__annotations__.keys()
            break
    return {name: defaults[name] for name in names - {"self"}}
