"""Object graphs as plain data.

:func:`flatten` turns objects that refer to each other into a list of records of tensors, numbers,
strings, lists and dictionaries, which ``torch.load(weights_only=True)`` reads and
:func:`~mist_avalanche._live.restore` makes the graph of again. What records look like is in
``_records.py``.
"""

from __future__ import annotations

import types
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable
from enum import Enum
from functools import partial
from inspect import (
    GEN_CLOSED,
    GEN_CREATED,
    GEN_SUSPENDED,
    getattr_static,
    getgeneratorstate,
)
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import mir
from avalanche.training.utils import cycle
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ._objects import attributes_of, class_name, is_heap, is_plain, transient
from ._records import CONSTANTS, DICTS, LISTS, PRIMITIVES, TUPLES, Record
from ._surroundings import Surroundings
from ._values import is_readable, parts_of_arrays, state_of

_CYCLES = (cycle.__code__, mir.cycle.__code__)
_ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())))


class NotSavableError(TypeError):
    """An object that cannot be saved; the message says where it is."""


def flatten(root: Any, around: Surroundings) -> list[Record]:
    """The records of everything that a root object refers to, itself first.

    Args:
        root: any object.
        around: objects that are named, not saved.

    Raises:
        TypeError: an object is neither named by ``around`` nor made of attributes, or of a class
            that ``around`` does not know.
    """
    writer = _Writer(around)
    writer.refer(root, "")
    return writer.write()


class _Writer:
    """Numbers objects as they are met, and writes their records one after the other."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.objects: list[Any] = []
        self._where: list[str] = []
        self._numbers: dict[int, int] = {}
        self._arrays: dict[int, Any] = {}  # by the number of their record

    def refer(self, value: Any, where: str) -> Any:
        """What stands for a value in a record."""
        if type(value) in PRIMITIVES:
            return value
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.objects)
            self.objects.append(value)
            self._where.append(where)
        return (self._numbers[id(value)],)

    def write(self) -> list[Record]:
        """The records of all objects, more of which are met on the way."""
        records: list[Record] = []
        while len(records) < len(self.objects):
            i = len(records)
            records.append(self._record(self.objects[i], self._where[i]))
        parts = parts_of_arrays([*self._arrays.values()])
        for i, found in zip(self._arrays, parts, strict=True):
            records[i][1:1] = found
        return records

    def _items(self, values: Iterable[Any], where: str) -> list[Any]:
        return [self.refer(value, f"{where}[{i}]") for i, value in enumerate(values)]

    def _pairs(self, mapping: dict[Any, Any], where: str) -> list[Any]:
        return [
            [self.refer(k, f"{where}, a key"), self.refer(v, f"{where}[{_shown(k)}]")]
            for k, v in list(mapping.items())
        ]

    def _attributes(self, value: Any, where: str) -> dict[str, Any]:
        _begin_anew(value)
        return {
            name: self.refer(attribute, f"{where}.{name}")
            for name, attribute in attributes_of(value).items()
            if name not in transient(value)
        }

    def _record(self, value: Any, where: str) -> Record:
        """The record of one object."""
        kind = type(value)
        if kind is types.GeneratorType:
            return self._iterator(value, where)
        if kind in _ITERATORS and not value.__length_hint__():
            return ["iterator", None, "ended"]
        name = self.around.name_of(value)
        if name is not None:
            return ["external", name]
        if isinstance(value, type):
            return ["class", self.around.known(value, where)]
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        if (made := kind.__name__) in TUPLES and kind in (tuple, frozenset, torch.Size):
            return [made, self._items(value, where)]
        if kind is slice:
            return ["slice", self._items((value.start, value.stop, value.step), where)]
        if isinstance(value, (dict, list, set, deque)):
            return self._container(value, where)
        if kind in CONSTANTS:
            return ["constant", value]
        if kind is range:
            return ["range", value.start, value.stop, value.step]
        if kind is np.ndarray or isinstance(value, np.generic):
            return self._array(value, where)
        if kind is torch.Generator:
            return ["generator", str(value.device), value.get_state()]
        if (state := state_of(value)) is not None:
            return ["random", *state]
        if isinstance(value, Enum):
            return ["member", self.around.known(kind, where), value.name]
        if kind is types.MethodType:
            return ["method", self.refer(value.__self__, where), self._function(value, where)]
        if kind is weakref.ref and value.__callback__ is None:
            return ["weak", self.refer(value(), where)]
        if kind is partial:
            return [
                "partial",
                self.refer(value.func, f"{where}.func"),
                self._items(value.args, where),
                {k: self.refer(v, f"{where}.{k}") for k, v in value.keywords.items()},
            ]
        if issubclass(kind, tuple) and is_heap(kind) and not attributes_of(value):
            return ["named tuple", self.around.known(kind, where), self._items(value, where)]
        if is_plain(kind):
            return ["object", self.around.known(kind, where), self._attributes(value, where)]
        raise _not_savable(
            value, where, "was not there when the Checkpoint was made, or has a state of its own"
        )

    def _tensor(self, value: Tensor, where: str) -> Record:
        """A tensor's data, and what it is apart from them."""
        if is_traceable_wrapper_subclass(value):
            raise _not_savable(value, where, "is made of other tensors")
        with torch._C.DisableTorchFunctionSubclass():  # of a subclass, a tensor
            data = value.detach()
            grad = self.refer(value.grad if value.is_leaf else None, f"{where}.grad")
        own = self.around.known(type(value), where)
        return ["tensor", data, value.requires_grad, own, grad, self._attributes(value, where)]

    def _container(self, value: Any, where: str) -> Record:
        """A dictionary, list, set or deque, or an object of a class derived from one of these."""
        kind = type(value)
        base = next(c for c in kind.__mro__ if c in (*DICTS.values(), *LISTS.values()))
        own = "" if kind is base else self.around.known(kind, where)
        attributes = self._attributes(value, where) if own else {}
        if isinstance(value, dict):
            factory = value.default_factory if isinstance(value, defaultdict) else None
            made_by = self.refer(factory, f"{where}.default_factory")
            return [base.__name__, self._pairs(value, where), made_by, own, attributes]
        items = [*value]
        if isinstance(value, set):  # filled anew here and there, it has the same order later
            set.clear(value)
            set.update(value, items)
        longest = value.maxlen if isinstance(value, deque) else None
        return [base.__name__, self._items(items, where), longest, own, attributes]

    def _array(self, value: Any, where: str) -> Record:
        """An array of numpy's; its bytes come when all arrays are known."""
        array = np.asarray(value)
        if not is_readable(array.dtype):
            raise _not_savable(value, where, f"has the dtype {array.dtype}")
        self._arrays[self._numbers[id(value)]] = array
        return ["array", array is not value]

    def _function(self, method: types.MethodType, where: str) -> Any:
        """The name of a method's function in its class, or the function where it is another one."""
        owner, function = method.__self__, method.__func__
        name = getattr(function, "__name__", "")
        return name if named_method(owner, name) is function else self.refer(function, where)

    def _iterator(self, value: Any, where: str) -> Record:
        """A generator that was not begun, or has ended."""
        state = getgeneratorstate(value)
        if state == GEN_CLOSED:
            return ["iterator", None, "ended"]
        if state == GEN_CREATED:
            given = value.gi_frame.f_locals
            if value.gi_code in _CYCLES:
                return ["iterator", self.refer(given["loader"], where), "cycle"]
            owner = given.get("self")
            function = getattr(type(owner), "__iter__", None)
            if value.gi_code is getattr(function, "__code__", None):
                return ["iterator", self.refer(owner, where), "iter"]
            if (name := self.around.name_of(value)) is not None:
                return ["external", name]
        raise _not_savable(value, where, "is an iterator that is in use")


def _shown(key: Any) -> str:
    return repr(key)[:40] if type(key) in PRIMITIVES else type(key).__name__


def _begin_anew(owner: Any) -> None:
    """Let endless loaders that were begun start anew: where they are cannot be saved."""
    for name, value in getattr(owner, "__dict__", {}).items():
        endless = isinstance(value, types.GeneratorType) and value.gi_code in _CYCLES
        if endless and getgeneratorstate(value) == GEN_SUSPENDED:
            vars(owner)[name] = cycle(value.gi_frame.f_locals["loader"])


def named_method(owner: Any, name: str) -> Any:
    """The function that a class, or the class of an object, has under a name."""
    cls = owner if isinstance(owner, type) else type(owner)
    found = getattr_static(cls, name, None)
    if isinstance(found, classmethod) is not isinstance(owner, type):
        return None
    return found.__func__ if isinstance(found, classmethod) else found


def _not_savable(value: Any, where: str, why: str) -> NotSavableError:
    what = class_name(type(value))
    return NotSavableError(f"Cannot save {where.lstrip('.')}, a {what}: it {why}.")
