"""The registry of strategies, by their names in the command, in results and in tables.

A strategy is registered where it is defined::

    @register("l2p", title="L2P", paper="arXiv 2112.08654", needs="vit")
    class L2P(GradientStrategy): ...

Your own strategy needs no registration: the command takes ``package.module:Class`` and
``./file.py:Class``.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ..utils import nearest_first
from . import base

Build = TypeVar("Build", bound=Callable[..., Any])


@dataclass(frozen=True)
class StrategyInfo:
    """Facts about a strategy.

    Args:
        name: name in the command, in results and in tables.
        title: display name.
        build: creates the strategy: its class, or a function with the same arguments.
        paper: source of the strategy.
        stores: what the strategy stores for later experiences besides backbone and linear head.
        needs: ``"vit"`` for timm's VisionTransformer, ``"any"`` for any module from images to
            features.
        is_baseline: whether the strategy is one of Avalanche's, see :mod:`.baselines`.
        upper_bound: whether the strategy sees the images of all experiences at once.
        copies: storage for later experiences, in multiples of the model's size.
        mist: arguments of MISTPlugin that the strategy's model needs.
        arguments: the strategy's own arguments and their defaults, if ``build`` does not list them.
    """

    name: str
    title: str
    build: Callable[..., Any]
    paper: str = ""
    stores: str = ""
    needs: str = "any"
    is_baseline: bool = False
    upper_bound: bool = False
    copies: int = 0
    mist: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tune_on(self) -> str:
        """Before which experiences MIST tunes by default."""
        return str(getattr(self.build, "tune_on", "every"))

    @property
    def follows_tuning(self) -> bool:
        """Whether MIST may tune before every experience."""
        return bool(getattr(self.build, "follows_tuning", True))

    @property
    def has_drift(self) -> bool:
        """Whether the strategy stores statistics that can follow a drift of the features."""
        return "drift_compensation" in base.arguments_of(self.build)


STRATEGIES: dict[str, StrategyInfo] = {}
# What `compare` compares by default: all but Cumulative, a second upper bound.
COMPARED = (
    *("simplecil", "simplecil+mist", "ranpac", "ranpac+mist"),
    *("naive", "replay", "ewc", "lwf", "er_ace", "der", "scr", "streaming_lda", "joint"),
)
# Arguments that have their own option in the command, or that are not plain data.
_NOT_SETTINGS = {
    *("model", "device", "plugins", "evaluator", "criterion"),
    *("precision", "compile", "drift_compensation"),
}


def register(name: str, *, title: str, **about: Any) -> Callable[[Build], Build]:
    """Register a strategy under a name; arguments are those of :class:`StrategyInfo`."""

    def add(build: Build) -> Build:
        STRATEGIES[name] = StrategyInfo(name, title, build, **about)
        return build

    return add


def find(name: str) -> StrategyInfo:
    """A registered strategy, or your own: ``package.module:Class`` or ``./file.py:Class``.

    Raises:
        ValueError: there is no such strategy (the message lists similar names), or a registered
            one has the same name.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" not in name:
        raise ValueError(
            f"Unknown strategy {name!r}. Use one of {nearest_first(name, STRATEGIES)}, or "
            "./file.py:Class or package.module:Class for your own."
        )
    build = load(name)
    for info in STRATEGIES.values():
        if info.build is build:
            return info
    title = getattr(build, "__name__", name)
    if title.lower() in STRATEGIES:
        raise ValueError(f"A strategy {title.lower()!r} already exists. Rename your {title}.")
    register(title.lower(), title=title)(build)
    return STRATEGIES[title.lower()]


def overview() -> list[dict[str, str]]:
    """One row of facts per strategy, for tables; Avalanche's own come last."""
    return [
        {
            "name": info.name,
            "strategy": info.title,
            "paper": info.paper,
            "backbone": "ViT" if info.needs == "vit" else "any",
            "keeps": info.stores,
            "MIST tunes before": info.mist.get("tune_on", info.tune_on),
        }
        for info in sorted(STRATEGIES.values(), key=lambda info: (info.is_baseline, info.name))
    ]


def arguments_of(info: StrategyInfo) -> dict[str, Any]:
    """Defaults of the settings that the command may pass as ``--strategy-arg``."""
    found = info.arguments or base.arguments_of(info.build)
    return {name: default for name, default in found.items() if name not in _NOT_SETTINGS}


def load(name: str) -> Any:
    """The object that ``package.module:name`` or ``./file.py:name`` refers to.

    Packages are looked up in the working directory too.

    Raises:
        ValueError: there is no such file, module or object.
    """
    module_name, _, attribute = name.rpartition(":")
    try:
        if module_name.endswith(".py"):
            return getattr(_load_file(Path(module_name).resolve()), attribute)
        if "" not in sys.path:  # an installed command runs without it
            sys.path.insert(0, "")
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, OSError, AttributeError) as error:
        raise ValueError(
            f"Cannot load {name!r}: {error}. Give package.module:name, with the package in this "
            "folder or installed, or ./file.py:name."
        ) from error


@cache
def _load_file(path: Path) -> Any:
    """Import a Python file as a module, once per process."""
    spec: Any = importlib.util.spec_from_file_location(f"_mist_avalanche_user_{path}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
