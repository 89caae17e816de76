"""The settings of a run, and the benchmarks by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .. import benchmarks
from ..models.defaults import EMBEDDED, backbone_defaults

if TYPE_CHECKING:
    from avalanche.benchmarks import NCScenario

SCHEMA = 1  # of results.json
EVERY = 300.0  # seconds
LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # that `suggest` tries
_NO_NUMBERS = ("name", "num_workers", "checkpoint_every")  # settings that change none


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run; the command's options have the same names.

    Args:
        benchmark: a name that the command's ``--benchmark`` takes.
        strategy: a name that the command's ``--strategy`` takes.
        mist: add a MISTPlugin.
        mist_args: its arguments, over the defaults of the backbone.
        strategy_args: arguments of the strategy, such as RanPAC's ``memory``.
        drift_compensation: let SimpleCIL or RanPAC follow a backbone that is tuned again.
        benchmark_args: arguments of the benchmark, such as ``alphabets``.
        dataset_root: where the data is; None for Avalanche's data folder.
        experiences: number of experiences that the classes are split into.
        first: train and evaluate on that many of them only; None for all.
        seed: of training.
        order_seed: of the class order.
        backbone: ``embedded`` or a name of timm.
        weights: a file with its weights, instead of timm's hub.
        image_size: pixels a side of its inputs; None for those of its pretraining.
        normalize: of its inputs: ``published``, ``pretrained`` or ``none``; None for what goes with
            the backbone, see :class:`~mist_avalanche.models.BackboneDefaults`.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: of the backbone, in tuning and in simplecil and ranpac: ``32`` or
            ``bf16``.
        compile: use ``torch.compile`` there.
        num_workers: of the data loaders. It changes no number of our own strategies; Avalanche's
            draw other random transforms with workers than without.
        name: of the method in tables and pictures; None for one made of the above.
        checkpoint_every: seconds between two checkpoints within an experience, while MIST tunes or
            a strategy of ours with an optimizer of its own trains; it changes no number.
    """

    benchmark: str = "glyphs"
    strategy: str = "simplecil"
    mist: bool = False
    mist_args: Mapping[str, Any] = field(default_factory=dict)
    strategy_args: Mapping[str, Any] = field(default_factory=dict)
    drift_compensation: bool = False
    benchmark_args: Mapping[str, Any] = field(default_factory=dict)
    dataset_root: str | None = None
    experiences: int = 10
    first: int | None = None
    seed: int = 0
    order_seed: int = 1993
    backbone: str = EMBEDDED
    weights: str | None = None
    image_size: int | None = None
    normalize: str | None = None
    device: str = "auto"
    precision: str = "32"
    compile: bool = False
    num_workers: int = 0
    name: str | None = None
    checkpoint_every: float = EVERY

    @classmethod
    def of_results(cls, content: Mapping[str, Any]) -> RunConfig:
        """The settings of a run, of what its results.json holds.

        Earlier versions had the published normalisation alone.

        Raises:
            ValueError: it has settings that this version does not know.
        """
        config = {k: v for k, v in content["config"].items() if k != "split"}
        unknown = config.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"its settings have {sorted(unknown)[0]!r}, which is not known")
        given = dict(config.get("strategy_args", {}))
        if given.get("seed") == config.get("seed"):
            given.pop("seed", None)  # filled in from the run's own, which may be another now
        return cls(**{"normalize": "published", **config, "strategy_args": given})

    @property
    def inputs(self) -> dict[str, Any]:
        """Size and normalisation of the images; mean and std are None for images in [0, 1]."""
        from ..benchmarks.transforms import IMAGENET, statistics_for

        defaults = backbone_defaults(self.backbone)
        setting = self.normalize or defaults.normalize
        published = IMAGENET if self.benchmark == "cars196" else None
        whose = self.backbone if setting == "pretrained" else None
        mean, std = statistics_for(setting, published, whose) or (None, None)
        size = self.image_size or defaults.image_size
        return {"image_size": size, "normalize": setting, "mean": mean, "std": std}

    def settings(self) -> dict[str, Any]:
        """All that decides a run's numbers, the backbone's defaults filled in."""
        from ..method.options import merged_options
        from ..strategies.registry import mist_arguments, takes

        defaults = backbone_defaults(self.backbone)
        mist = {
            **defaults.mist_for(drift_compensation=self.drift_compensation),
            **mist_arguments(self.strategy),
        }
        strategy = defaults.strategy_for(self.strategy)
        if takes(self.strategy, "seed"):
            strategy["seed"] = self.seed
        return {
            **{k: v for k, v in asdict(self).items() if k not in _NO_NUMBERS and k != "first"},
            **({} if self.first is None else {"first": self.first}),
            "mist_args": merged_options(mist, self.mist_args) if self.mist else {},
            "strategy_args": {**strategy, **self.strategy_args},
            "normalize": self.normalize or defaults.normalize,
        }

    @property
    def label(self) -> str:
        """Name of the method, for tables and folders."""
        return self.name or (
            self.strategy
            + ("+mist" if self.mist else "")
            + ("+drift" if self.drift_compensation else "")
        )


def check_glyphs(config: RunConfig) -> None:
    """ValueError where the backbone takes images of another size than glyphs have."""
    size = config.inputs["image_size"]
    if size != 32:
        raise ValueError(f"glyphs are 32 pixels wide, {config.backbone!r} takes {size}.")


def _glyphs(config: RunConfig) -> NCScenario:
    check_glyphs(config)
    return benchmarks.SplitGlyphs(
        config.experiences, seed=config.order_seed, **config.benchmark_args
    )


def _images(name: str, config: RunConfig) -> NCScenario:
    inputs = config.inputs
    benchmark: NCScenario = getattr(benchmarks, name)(
        config.experiences,
        dataset_root=config.dataset_root,
        seed=config.order_seed,
        normalize=None if inputs["mean"] is None else (inputs["mean"], inputs["std"]),
        image_size=inputs["image_size"],
        **config.benchmark_args,
    )
    return benchmark


BENCHMARKS: Mapping[str, Callable[[RunConfig], NCScenario]] = MappingProxyType(
    {
        "glyphs": _glyphs,
        "omniglot": partial(_images, "SplitOmniglot"),
        "cifar100": partial(_images, "SplitCIFAR100"),
        "cub200": partial(_images, "SplitCUB200"),
        "imagenet-r": partial(_images, "SplitImageNetR"),
        "imagenet-a": partial(_images, "SplitImageNetA"),
        "cars196": partial(_images, "SplitCars196"),
        "folder": partial(_images, "SplitFolder"),
    }
)
