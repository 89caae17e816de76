"""The settings of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..benchmarks.transforms import IMAGENET, statistics_for
from ..method.options import MISTOptions
from ..models.defaults import EMBEDDED, backbone_defaults
from ..strategies.registry import arguments_of, find
from ..utils import is_plain

_COMMON_TO_ALL = ("seed", "precision", "compile", "verbose")  # arguments of MISTPlugin


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run; the options of the command have the same names.

    Args:
        benchmark: a name in :data:`mist_avalanche.benchmarks.BENCHMARKS`, or your own function as
            ``package.module:function`` or ``./file.py:function``. It is called with the number of
            experiences, ``seed`` and ``benchmark_args``.
        strategy: a registered name, or your own class as ``package.module:Class`` or
            ``./file.py:Class``.
        mist: add a MISTPlugin.
        mist_args: arguments of the MISTPlugin, which override the defaults of the backbone.
        strategy_args: arguments of the strategy, such as ``train_epochs``.
        drift_compensation: let a feature-based strategy follow a backbone that is tuned again.
        benchmark_args: arguments of the benchmark, such as ``alphabets``.
        dataset_root: folder of the data; None for Avalanche's data folder.
        experiences: number of experiences that the classes are split into.
        first: number of experiences to train and evaluate on, from the first; None for all.
        seed: training seed.
        order_seed: seed of the class order.
        backbone: ``embedded`` or a timm name.
        weights: file with the backbone's weights; None downloads them from timm's hub.
        image_size: pixels per side of the inputs; None for the size of the pretraining.
        normalize: normalisation of the inputs: ``published``, ``pretrained`` or ``none``; None for
            the backbone's default, see :class:`~mist_avalanche.models.BackboneDefaults`.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: backbone precision: ``32`` or ``bf16``. Avalanche's own strategies use it only
            in MIST's tuning.
        compile: use ``torch.compile`` for the backbone.
        num_workers: workers per data loader; each worker draws its own random transforms.
        name: name of the method in tables and figures; None derives it from the settings.
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

    @classmethod
    def from_results(cls, results: Mapping[str, Any]) -> "RunConfig":
        """Create the settings of a run from the content of its results.json."""
        return cls(**{name: v for name, v in results["config"].items() if name != "split"})

    @property
    def label(self) -> str:
        """Name of the method in tables and folders, such as ``ranpac+mist+drift``."""
        additions = {
            "mist": self.mist,
            "joined": self.joined and not self._joined_by_default,
            "drift": self.drift_compensation,
        }
        names = [find(self.strategy).name, *(name for name, added in additions.items() if added)]
        return self.name or "+".join(names)

    @property
    def joined(self) -> bool:
        """Whether features before and after tuning are joined, as given or by default."""
        return bool(self.strategy_args.get("joined", self._joined_by_default))

    @property
    def _joined_by_default(self) -> bool:
        """If MIST tunes once, at the image size and for the strategies that gain from it."""
        defaults = backbone_defaults(self.backbone)
        return (
            self.mist
            and self.mist_args.get("tune_on", "first") == "first"
            and not self.drift_compensation
            and find(self.strategy).name in defaults.joined
            and self.image_size in (None, defaults.image_size)
            and not self.strategy_args.get("first_session")
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """Size and normalisation of the images; mean and std are None for images in [0, 1]."""
        defaults = backbone_defaults(self.backbone)
        normalize = self.normalize or defaults.normalize
        published = IMAGENET if self.benchmark == "cars196" else None
        pretrained = self.backbone if normalize == "pretrained" else None
        mean, std = statistics_for(normalize, published, pretrained) or (None, None)
        size = self.image_size or defaults.image_size
        return {"image_size": size, "normalize": normalize, "mean": mean, "std": std}

    def settings(self) -> dict[str, Any]:
        """All settings that determine the results of a run, with defaults filled in."""
        info, defaults = find(self.strategy), backbone_defaults(self.backbone)
        mist = {o.name: o.default for o in fields(MISTOptions) if o.name not in _COMMON_TO_ALL}
        mist |= defaults.mist_for(drift_compensation=self.drift_compensation, joined=self.joined)
        strategy = {k: v for k, v in arguments_of(info).items() if is_plain(v)}
        strategy |= defaults.strategy_for(info.name)
        if "joined" in strategy:
            strategy["joined"] = self.joined
        if "seed" in strategy:
            strategy["seed"] = self.seed
        mist_args = {**mist, **info.mist, **self.mist_args}
        session = self.strategy_args.get("first_session") and not self.drift_compensation
        mist_args["tune_on"] = mist_args["tune_on"] or ("first" if session else info.tune_on)
        found = {
            **asdict(self),
            "mist_args": mist_args if self.mist else {},
            "strategy_args": {**strategy, **self.strategy_args},
            "normalize": self.normalize or defaults.normalize,
        }
        if self.first is None:
            del found["first"]
        del found["name"]
        return found
