"""Object graphs as plain data, and back into live objects.

:func:`flatten` turns objects that refer to each other into a list of records of tensors, numbers,
strings, lists and dictionaries, which ``torch.load(weights_only=True)`` reads. :func:`restore`
makes the graph again: into the live objects that stand in the same places where there are such, so
that whoever holds them holds the restored ones, and new ones elsewhere. It calls no constructor and
no function that a file names: an object is made empty, its attributes are set, and its class has to
be one of :class:`Surroundings`.

A record is a list ``[kind, ...]``. Where it refers to another record there is a tuple
``(number,)``; numbers, strings, booleans and None stand for themselves.
"""

from __future__ import annotations

import random
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from inspect import (
    GEN_CREATED,
    GEN_SUSPENDED,
    getattr_static,
    getgeneratorstate,
    isgeneratorfunction,
)
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import mir
from avalanche.training.utils import cycle
from torch import Tensor, nn

from ._surroundings import (
    Surroundings,
    attributes_of,
    class_name,
    is_plain,
    set_attributes,
    transient,
)

PRIMITIVES = (bool, int, float, str, type(None))
_DICTS: dict[str, type] = {c.__name__: c for c in (dict, OrderedDict, Counter, defaultdict)}
_SEQUENCES: dict[str, type] = {c.__name__: c for c in (list, tuple, set, frozenset, torch.Size)}
_CYCLES = (cycle.__code__, mir.cycle.__code__)
_CONSTANTS = (torch.dtype, torch.device, torch.layout, bytes, complex)
Record = list[Any]


class NotSavableError(TypeError):
    """An object that cannot be saved; the message says where it is."""


def flatten(root: Any, around: Surroundings) -> list[Record]:
    """The records of everything that a root object refers to, itself first.

    Args:
        root: any object.
        around: objects that are named, not saved.

    Raises:
        NotSavableError: an object is neither named by ``around`` nor made of attributes.
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
        name = self.around.name_of(value)
        if name is not None:
            return ["external", name]
        if isinstance(value, type):
            return ["class", self.around.known(value, where)]
        if kind is Tensor or kind is nn.Parameter:
            extra = self._attributes(value, where)
            return ["tensor", value.detach(), value.requires_grad, kind is nn.Parameter, extra]
        if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
            return [kind.__name__, self._items(value, where)]
        if kind.__name__ in _DICTS and kind is _DICTS[kind.__name__]:
            factory = value.default_factory if kind is defaultdict else None
            made_by = self.refer(factory, f"{where}.default_factory")
            return [kind.__name__, self._pairs(value, where), made_by]
        if kind is deque:
            return ["deque", self._items(value, where), value.maxlen]
        if isinstance(value, _CONSTANTS):
            return ["constant", value]
        if kind is range:
            return ["range", value.start, value.stop, value.step]
        if isinstance(value, (np.ndarray, np.generic)):
            return ["array", *_bits(value, where), kind is not np.ndarray]
        if isinstance(value, torch.Generator):
            return ["generator", str(value.device), value.get_state()]
        if kind is random.Random:
            return ["random", self.refer(value.getstate(), where)]
        if kind is np.random.RandomState:
            return ["numpy random", self.refer(value.get_state(legacy=False), where)]
        if isinstance(value, Enum):
            return ["member", self.around.known(kind, where), value.name]
        if isinstance(value, types.MethodType):
            return ["method", self.refer(value.__self__, where), value.__func__.__name__]
        if isinstance(value, types.GeneratorType):
            function, iterated = _begin_of(value, where)
            return ["iterator", self.refer(iterated, where), function]
        if kind is partial:
            return [
                "partial",
                self.refer(value.func, f"{where}.func"),
                self._items(value.args, where),
                {k: self.refer(v, f"{where}.{k}") for k, v in value.keywords.items()},
            ]
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return ["named tuple", self.around.known(kind, where), self._items(value, where)]
        if is_plain(kind):
            return ["object", self.around.known(kind, where), self._attributes(value, where)]
        raise NotSavableError(
            f"Cannot save {where.lstrip('.')}, a {class_name(kind)}: it was not there when the "
            "Checkpoint was made, and is not made of attributes alone."
        )


def _bits(value: Any, where: str) -> tuple[Tensor, str, list[int]]:
    """The bits of an array of numpy's."""
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise NotSavableError(f"Cannot save {where.lstrip('.')}, an array of Python objects.")
    flat = np.frombuffer(array.tobytes(), np.uint8).copy()
    return torch.from_numpy(flat), array.dtype.str, list(array.shape)


def _shown(key: Any) -> str:
    return repr(key)[:40] if type(key) in PRIMITIVES else type(key).__name__


def _begin_anew(owner: Any) -> None:
    """Let endless loaders that were begun start anew: where they are cannot be saved."""
    for name, value in getattr(owner, "__dict__", {}).items():
        endless = isinstance(value, types.GeneratorType) and value.gi_code in _CYCLES
        if endless and getgeneratorstate(value) == GEN_SUSPENDED:
            vars(owner)[name] = cycle(value.gi_frame.f_locals["loader"])


def _begin_of(generator: Any, where: str) -> tuple[str, Any]:
    """The function of a generator that was not begun, and what it goes through."""
    if getgeneratorstate(generator) == GEN_CREATED:
        given = generator.gi_frame.f_locals
        if generator.gi_code in _CYCLES:
            return "cycle", given["loader"]
        owner = given.get("self")
        if generator.gi_code is getattr(getattr(type(owner), "__iter__", None), "__code__", None):
            return "iter", owner
    raise NotSavableError(f"Cannot save {where.lstrip('.')}, an iterator that was begun.")


def restore(records: list[Record], live: Any, around: Surroundings) -> Any:
    """The root object of some records.

    Args:
        records: of :func:`flatten`.
        live: a root object of the same kind. Its parts, found in the same places, take on what was
            saved.
        around: what the names in the records stand for.

    Raises:
        ValueError: a record names a class or an object that is not around.
    """
    return _Reader(records, around).read(live)


class _Reader:
    """Pairs records with live objects, then gives all their contents."""

    def __init__(self, records: list[Record], around: Surroundings) -> None:
        self.records, self.around = records, around
        self._made: dict[int, Any] = {}
        self._claimed: set[int] = set()

    def read(self, live: Any) -> Any:
        """The root, with everything that it refers to."""
        kind, name, attributes = self.records[0]
        if kind != "object" or name != class_name(type(live)):
            raise ValueError(f"it is of a {name}, this is a {class_name(type(live))}")
        if "model" in attributes:  # parameters belong to the model first
            self._pair(attributes["model"], getattr(live, "model", None))
        self._pair((0,), live)
        for i in range(len(self.records)):
            self._value((i,))
        for i, record in enumerate(self.records):
            self._fill(self._made[i], record)
        return self._made[0]

    def _pair(self, reference: Any, live: Any) -> None:
        """Find or make the objects that can be filled later, from one on."""
        waiting = deque([(reference, live)])
        seen: set[int] = set()
        while waiting:
            reference, live = waiting.popleft()
            if type(reference) is not tuple or reference[0] in seen:
                continue
            (i,) = reference
            seen.add(i)
            if i not in self._made:
                found = self._mutable(self.records[i], live)
                if found is not None:
                    self._made[i] = found
                    self._claimed.add(id(found))
            waiting.extend(self._children(self.records[i], self._made.get(i, live)))

    def _mutable(self, record: Record, live: Any) -> Any:
        """The live object for a record, or an empty one; None for what is made of its values."""
        kind, *rest = record
        free = id(live) not in self._claimed
        if kind == "object":
            cls = self.around.class_of(rest[0])
            return live if type(live) is cls and free else object.__new__(cls)
        if kind in _DICTS or kind in ("list", "set", "deque"):
            cls = _DICTS.get(kind) or _SEQUENCES.get(kind) or deque
            if kind == "deque":
                return deque(maxlen=rest[1])
            return live if type(live) is cls and free else cls()
        if kind == "tensor" and rest[2]:
            data = rest[0]
            fits = type(live) is nn.Parameter and (live.dtype, live.device) == (
                data.dtype,
                data.device,
            )
            if not (fits and free):
                return nn.Parameter(data, rest[1])
            live.requires_grad_(False)
            live.grad, live.data = None, data
            return live.requires_grad_(rest[1])
        if kind == "tensor":
            return rest[0].requires_grad_(rest[1])
        if kind == "generator":
            made = torch.Generator(rest[0])
            made = live if isinstance(live, torch.Generator) and free else made
            return made.set_state(rest[1])
        return None

    def _children(self, record: Record, live: Any) -> Iterator[tuple[Any, Any]]:
        """References of a record, each with the live object in its place."""
        kind, *rest = record
        if kind == "object" or kind == "tensor":
            there = {} if live is None else attributes_of(live)
            yield from ((field, there.get(name)) for name, field in rest[-1].items())
        elif kind in _DICTS:
            there = live if isinstance(live, dict) else {}
            for key, field in rest[0]:
                yield key, None
                yield field, None if type(key) is tuple else there.get(key)
        elif kind in ("list", "tuple", "named tuple"):
            parts = live if isinstance(live, (list, tuple)) else ()
            for i, field in enumerate(rest[-1]):
                yield field, parts[i] if i < len(parts) else None
        elif kind in _SEQUENCES or kind == "deque":
            yield from ((field, None) for field in rest[0])
        elif kind in ("method", "iterator"):
            yield rest[0], None

    def _value(self, field: Any) -> Any:
        """What a field of a record stands for; objects may still be empty."""
        if type(field) is not tuple:
            return field
        (i,) = field
        if i not in self._made:
            made = self._mutable(self.records[i], None)
            self._made[i] = self._immutable(self.records[i]) if made is None else made
        return self._made[i]

    def _immutable(self, record: Record) -> Any:
        """An object that is made of its values at once."""
        kind, *rest = record
        if kind in ("tuple", "frozenset", "Size"):
            return _SEQUENCES[kind](self._value(field) for field in rest[0])
        if kind == "named tuple":
            cls = self.around.class_of(rest[0])
            if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
                raise ValueError(f"{rest[0]} is no named tuple.")
            return tuple.__new__(cls, [self._value(field) for field in rest[1]])
        if kind in _MAKERS:
            return _MAKERS[kind](self, *rest)
        raise ValueError(f"it has an unknown record {kind!r}")

    def _fill(self, made: Any, record: Record) -> None:
        """Give an object its contents."""
        kind, *rest = record
        if kind == "object" or (kind == "tensor" and rest[-1]):
            kept = {k: v for k, v in attributes_of(made).items() if k in transient(made)}
            set_attributes(made, {**{k: self._value(v) for k, v in rest[-1].items()}, **kept})
        elif kind in ("list", "set", "deque"):
            values = [self._value(field) for field in rest[0]]
            made.clear()
            made.update(values) if kind == "set" else made.extend(values)
        elif kind in _DICTS:
            values = [(self._value(k), self._value(v)) for k, v in rest[0]]
            made.clear()
            if kind == "defaultdict":
                made.default_factory = self._value(rest[1])
            for key, value in values:
                made[key] = value

    # ---- Values of the other kinds -----------------------------------------------------------

    def _array(self, bits: Tensor, dtype: str, shape: list[int], scalar: bool) -> Any:
        array = np.frombuffer(bits.numpy().tobytes(), np.dtype(dtype)).reshape(shape).copy()
        return array[()] if scalar else array

    def _random(self, state: Any) -> random.Random:
        made = random.Random()
        made.setstate(self._filled(state))
        return made

    def _numpy_random(self, state: Any) -> np.random.RandomState:
        made = np.random.RandomState()
        made.set_state(self._filled(state))
        return made

    def _filled(self, field: Any) -> Any:
        """A value whose contents are needed at once."""
        value = self._value(field)
        if isinstance(value, dict):
            for k, v in self.records[field[0]][1]:
                value[self._value(k)] = self._filled(v)
        return value

    def _method(self, owner: Any, name: str) -> Any:
        bound = self._value(owner)
        function = getattr_static(type(bound), name, None)
        if not isinstance(function, types.FunctionType):
            raise ValueError(f"{class_name(type(bound))} has no method {name!r}.")
        return types.MethodType(function, bound)

    def _partial(self, function: Any, items: list[Any], named: dict[str, Any]) -> Any:
        values = [self._value(field) for field in items]
        keywords = {k: self._value(v) for k, v in named.items()}
        return partial(self._value(function), *values, **keywords)

    def _iterator(self, owner: Any, function_name: str) -> Any:
        iterated = self._value(owner)
        if function_name == "cycle":
            return cycle(iterated)
        function = getattr(type(iterated), "__iter__", None)
        if not isgeneratorfunction(function):
            raise ValueError(f"{class_name(type(iterated))} has no iterator of its own.")
        return function(iterated)  # which does nothing before it is asked for a value


_MAKERS: dict[str, Callable[..., Any]] = {
    "external": lambda reader, name: reader.around.find(name),
    "class": lambda reader, name: reader.around.class_of(name),
    "constant": lambda _, value: value,
    "range": lambda _, *ends: range(*ends),
    "array": _Reader._array,
    "random": _Reader._random,
    "numpy random": _Reader._numpy_random,
    "member": lambda reader, name, member: reader.around.member(name, member),
    "method": _Reader._method,
    "partial": _Reader._partial,
    "iterator": _Reader._iterator,
}
