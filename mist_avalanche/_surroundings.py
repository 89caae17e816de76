"""What a checkpoint names instead of saving it: data, transforms, functions, loggers, classes."""

from __future__ import annotations

import io
import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterator
from copyreg import _slotnames  # type: ignore[attr-defined]
from enum import Enum
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from avalanche.core import BasePlugin
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor
from torch.utils.hooks import RemovableHandle

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
)
_BUILTINS = {c.__name__: c for c in (bool, dict, float, int, list, set, str, tuple)}
# Attributes that are made anew for every experience; loggers are the live evaluator's own.
_LEFT_OUT = {
    BaseTemplate: (
        "_eval_streams",
        "adapted_dataset",
        "current_eval_stream",
        "dataloader",
        "experience",
        "loss",
        "mb_output",
        "mbatch",
        "pos_neg_loaders",
    ),
    BasePlugin: ("iter_replay",),
    EvaluationPlugin: ("loggers",),
}
# which Avalanche's ParamData has
_FUNCTIONS = {f"torch.{f.__name__}": f for f in (torch.zeros, torch.ones)}
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_SCALARS = {bool, int, float, str, type(None), torch.dtype, torch.device}
_VALUES = (Tensor, np.ndarray, np.generic, torch.Generator, random.Random, np.random.RandomState)
_SAVED = (*_CONTAINERS, *_VALUES, type, types.MethodType, partial, Enum)
_NAMED = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    types.GeneratorType,
    weakref.ref,
    io.IOBase,
    BaseLogger,
    RemovableHandle,
)


def class_name(cls: type) -> str:
    """Module and qualified name."""
    return f"{cls.__module__}:{cls.__qualname__}"


def is_plain(cls: type) -> bool:
    """Whether instances are nothing but their attributes: Python's classes down to object."""
    heap = 1 << 9  # Py_TPFLAGS_HEAPTYPE
    ours = all(c is object or c.__flags__ & heap for c in cls.__mro__ if c.__module__ != "typing")
    if not ours or issubclass(cls, (*_NAMED, type, Enum)):
        return False
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True


def transient(value: Any) -> Collection[str]:
    """Attributes of an object that are not saved: its class's ``_transient``, and Avalanche's."""
    own: Collection[str] = getattr(type(value), "_transient", ())
    avalanche = (names for cls, names in _LEFT_OUT.items() if isinstance(value, cls))
    return {*own, *chain.from_iterable(avalanche)}


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots among them."""
    found = dict(getattr(value, "__dict__", {}))
    if not isinstance(value, (Tensor, type)):
        for name in _slotnames(type(value)):
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Make these the attributes of an object, past whatever ``__setattr__`` it has."""
    slots = set() if isinstance(value, Tensor) else {*_slotnames(type(value))}
    own = getattr(value, "__dict__", {})
    own.clear()
    for name, attribute in attributes.items():
        if name in slots:
            object.__setattr__(value, name, attribute)
        else:
            own[name] = attribute


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object refers to, and where."""
    if isinstance(value, dict):
        for i, (key, item) in enumerate(value.items()):
            yield f"[{key!r}]" if isinstance(key, str) else f"[#{i}]", item
        if (factory := getattr(value, "default_factory", None)) is not None:
            yield ".default_factory", factory
    elif isinstance(value, (list, tuple, deque)):
        if value and isinstance(value[0], (str, int, float)):
            return  # long lists of numbers and names have nothing else
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, partial):
        yield from ((f".{part}", getattr(value, part)) for part in ("func", "args", "keywords"))
    if not isinstance(value, (*_NAMED, type)):
        yield from ((f".{name}", item) for name, item in attributes_of(value).items())


def _walk(root: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Everything that can be reached, each once, by the shortest way."""
    waiting, seen = deque([(name, root)]), {id(root)}
    while waiting:
        where, value = waiting.popleft()
        yield where, value
        left_out = transient(value)
        for step, part in _parts(value):
            if id(part) in seen or step[1:] in left_out:
                continue
            if type(part) not in _SCALARS:
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
        self._classes: dict[str, type] = {}
        self._own: dict[str, Any] = {}
        self._named: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        for where, value in _walk(strategy, "strategy"):
            self._learn(value)
            if not (isinstance(value, _SAVED) or is_plain(type(value))):
                self._own[where] = value
        self.look_at(benchmark)

    def look_at(self, benchmark: Any) -> None:
        """Name what the benchmark has by now: some make their datasets when they are used."""
        self._named = {**_FUNCTIONS, **self._own}
        streams = [getattr(benchmark, f"{name}_stream", None) for name in ("train", "test")]
        for where, value in _walk([benchmark, *streams], "benchmark"):
            self._learn(value)
            if not isinstance(value, type) and not (isinstance(value, _CONTAINERS) and not value):
                self._named[where] = value
        self._names = {id(value): where for where, value in reversed([*self._named.items()])}

    def _learn(self, value: Any) -> None:
        for cls in (type(value), value if isinstance(value, type) else object):
            self._classes.setdefault(class_name(cls), cls)

    def name_of(self, value: Any) -> str | None:
        """The name of an object, or None."""
        return self._names.get(id(value))

    def find(self, name: str) -> Any:
        """The object of a name."""
        if name not in self._named:
            raise ValueError(f"it refers to {name}, which is not there")
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
            raise ValueError(f"it has an object of {name}, which is not allowed")
        return found

    def member(self, name: str, member: str) -> Enum:
        """A member of an enumeration."""
        cls = self.class_of(name)
        if not issubclass(cls, Enum):
            raise ValueError(f"{name} is no enumeration.")
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
