"""What a checkpoint names instead of saving it: data, transforms, functions, loggers, classes."""

from __future__ import annotations

import io
import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.classification_dataset import lookup
from avalanche.benchmarks.utils.transform_groups import identity
from torch import Tensor, nn

from ._objects import HIDDEN, NAMED, attributes_of, class_name, is_plain, transient
from ._values import GLOBAL_GENERATORS

# Classes of these may be made empty and given attributes; so may those of the live objects.
_PACKAGES = (
    "avalanche.benchmarks.utils",
    "avalanche.core",
    "avalanche.evaluation",
    "avalanche.models",
    "avalanche.training",
    "mist_avalanche",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "torch.utils.hooks",
)
_BUILTINS = {c.__name__: c for c in (bool, dict, float, int, list, set, str, tuple)}
# which Avalanche's ParamData and datasets have
_FUNCTIONS = (torch.zeros, torch.ones, identity, lookup)
_EVERYWHERE: dict[str, Any] = {f.__name__: f for f in _FUNCTIONS} | GLOBAL_GENERATORS
_SOMEWHERE = "[?]"  # in a set, which has no order that another process would have
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_SCALARS = {bool, int, float, str, type(None), torch.dtype, torch.device}
_RANDOM = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
_VALUES = (Tensor, np.ndarray, np.generic, *_RANDOM)
_OPEN = (types.GeneratorType, io.IOBase)
_TRAINED = (nn.Module, nn.Parameter)
_SAVED = (*_CONTAINERS, *_VALUES, type, types.MethodType, partial, Enum, weakref.ref)


def _only_scalars(value: Any) -> bool:
    return _SCALARS.issuperset(map(type, value))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object refers to, and where."""
    if isinstance(value, dict):
        for i, (key, item) in enumerate(value.items()):
            # hooks are in an OrderedDict, by a number that counts all hooks of a process
            named = type(key) is str or (type(value) is dict and type(key) in _SCALARS)
            yield f"[{key!r}]" if named else f"[#{i}]", item
            yield f"[key #{i}]", key
        if (factory := getattr(value, "default_factory", None)) is not None:
            yield ".default_factory", factory
    elif isinstance(value, (list, tuple, deque)):
        if not _only_scalars(value):
            yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        if not _only_scalars(value):
            yield from ((_SOMEWHERE, item) for item in value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, partial):
        yield from ((f".{part}", getattr(value, part)) for part in ("func", "args", "keywords"))
    if not isinstance(value, (*NAMED, type)):
        yield from ((f".{name}", item) for name, item in attributes_of(value).items())


def _walk(root: Any, name: str, apart: Iterable[int] = ()) -> Iterator[tuple[str, Any]]:
    """Everything that can be reached, each once, by the shortest way; not past some objects."""
    waiting, seen = deque([(name, root)]), {id(root), *apart}
    while waiting:
        where, value = waiting.popleft()
        yield where, value
        left_out = transient(value)
        for step, part in _parts(value):
            if id(part) in seen or step[1:] in left_out:
                continue
            plain = type(part) is tuple and _only_scalars(part)
            if type(part) not in _SCALARS and not plain:
                seen.add(id(part))
                waiting.append((where + step, part))


class Surroundings:
    """The benchmark's objects, and functions and loggers of a strategy as it was built.

    Their names are where they are found. Two processes that build the same benchmark and the same
    strategy give the same names.

    Args:
        strategy: as it was built.
        benchmark: whose datasets and transforms are named.
    """

    def __init__(self, strategy: Any, benchmark: Any) -> None:
        self._classes: dict[str, type] = {class_name(Tensor): Tensor}
        self._own: dict[str, Any] = {}
        self._unsaved: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._named: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        for where, value in _walk(strategy, "strategy"):
            self._learn(value)
            if names := transient(value):
                there = {k: v for k, v in attributes_of(value).items() if k in names}
                self._unsaved[id(value)] = value, there
            calls_back = isinstance(value, weakref.ref) and value.__callback__ is not None
            saved = (isinstance(value, _SAVED) and not calls_back) or is_plain(type(value))
            hidden = isinstance(value, HIDDEN) and not isinstance(value, _OPEN)
            if not (saved or hidden or _SOMEWHERE in where):
                self._own[where] = value
        model = getattr(strategy, "model", None)  # which transforms of the benchmark may have
        self._model = {id(v): v for _, v in _walk(model, "") if isinstance(v, _TRAINED)}
        self.look_at(benchmark)

    def look_at(self, benchmark: Any) -> None:
        """Name what the benchmark has by now: some make their datasets when they are used."""
        self._named = {**_EVERYWHERE, **self._own}
        streams = [getattr(benchmark, f"{name}_stream", None) for name in ("train", "test")]
        for where, value in _walk([benchmark, *streams], "benchmark", self._model):
            self._learn(value)
            empty = isinstance(value, _CONTAINERS) and not value
            if not (isinstance(value, type) or empty or _SOMEWHERE in where):
                self._named[where] = value
        self._names = {id(value): where for where, value in reversed([*self._named.items()])}

    def _learn(self, value: Any) -> None:
        for cls in (type(value), value if isinstance(value, type) else object):
            self._classes.setdefault(class_name(cls), cls)

    def name_of(self, value: Any) -> str | None:
        """The name of an object, or None."""
        return self._names.get(id(value))

    def unsaved(self, value: Any) -> dict[str, Any]:
        """Attributes of an object that are not saved, as they were when it was built."""
        return self._unsaved.get(id(value), (value, {}))[1]

    def find(self, name: str) -> Any:
        """The object of a name."""
        if name not in self._named:
            raise ValueError(f"it refers to {name[:200]}, which is not there")
        return self._named[name]

    def known(self, cls: type, where: str) -> str:
        """The name of a class that :meth:`class_of` will find."""
        name = class_name(cls)
        if self._find_class(name) is not cls:
            raise TypeError(
                f"Cannot save {where.lstrip('.')}: its class {name} is not one of Avalanche's or "
                "torch's, and no part of the strategy or the benchmark had it when the Checkpoint "
                "was made."
            )
        return name

    def class_of(self, name: str) -> type:
        """The class of a name."""
        found = self._find_class(name)
        if found is None:
            raise ValueError(f"it has an object of {name[:200]}, which is not allowed here")
        return found

    def member(self, name: str, member: str) -> Enum:
        """A member of an enumeration."""
        cls = self.class_of(name)
        if not issubclass(cls, Enum):
            raise ValueError(f"{name[:200]} is no enumeration")
        return cls[member]

    def _find_class(self, name: str) -> type | None:
        if name in self._classes:
            return self._classes[name]
        module, _, path = name.partition(":")
        if module == "builtins":
            return _BUILTINS.get(path)
        if not any(module == p or module.startswith(f"{p}.") for p in _PACKAGES):
            return None
        found: Any = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        return found if isinstance(found, type) and class_name(found) == name else None
