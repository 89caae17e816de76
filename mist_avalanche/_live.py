"""Records of an object graph, made into live objects again.

Live objects that stand in the same places take on what was saved, so that whoever holds them holds
the restored ones; elsewhere there are new ones. No constructor is called and no function that a
file names: an object is made empty, its attributes are set, and its class has to be one of
:class:`~mist_avalanche._surroundings.Surroundings`.
"""

from __future__ import annotations

import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from inspect import isgeneratorfunction
from typing import Any

import torch
from avalanche.training.utils import cycle
from torch import Tensor, nn

from ._graph import named_method
from ._objects import attributes_of, class_name, is_plain, set_attributes, transient
from ._records import DICTS, LISTS, TUPLES, Record, checked
from ._surroundings import Surroundings
from ._values import array_of, generator_of

_LARGEST = 10**7  # references in a tuple, those within its tuples among them
_BASES = {**DICTS, **LISTS}


def restore(records: Any, live: Any, around: Surroundings) -> Any:
    """Make the root object of some records out of a live one.

    Args:
        records: of :func:`~mist_avalanche._graph.flatten`.
        live: a root object of the same class. Its parts, found in the same places, take on what
            was saved.
        around: what the names in the records stand for.

    Raises:
        ValueError: the records are not such ones, or of an object of another class; they name a
            class or an object that is not around.
    """
    return _Reader(checked(records), around).read(live)


class _Reader:
    """Pairs records with live objects, then gives all their contents."""

    def __init__(self, records: list[Record], around: Surroundings) -> None:
        self.records, self.around = records, around
        self._made: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}  # of tuples
        self._claimed: set[int] = set()

    def read(self, live: Any) -> Any:
        """The root, with everything that it refers to."""
        kind, name = self.records[0][:2]
        if kind != "object" or self.around.class_of(name) is not type(live):
            raise ValueError(f"it is not of a {class_name(type(live))}")
        self._made[0] = live
        self._claimed.add(id(live))
        attributes = self.records[0][2]
        if "model" in attributes:  # parameters belong to the model first
            self._pair(attributes["model"], getattr(live, "model", None))
        self._pair((0,), live)
        for i in range(len(self.records)):
            self._value((i,))
        # what is a key may need its attributes for that
        order = sorted(range(len(self.records)), key=lambda i: self.records[i][0] != "object")
        order.sort(key=lambda i: self.records[i][0] in ("set", *DICTS))
        for i in order:
            self._fill(self._made[i], self.records[i])
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
        if id(live) in self._claimed or self.around.name_of(live) is not None:
            live = None
        if kind == "object":
            cls = self.around.class_of(rest[0])
            if not is_plain(cls):
                raise ValueError(f"{rest[0][:200]} is not made of attributes alone")
            return live if type(live) is cls else object.__new__(cls)
        if kind in _BASES:
            base: Any = _BASES[kind]
            cls = self.around.class_of(rest[2]) if rest[2] else base
            if kind != "deque":
                return live if type(live) is cls else base.__new__(cls)
            bounded: deque[Any] = deque.__new__(cls)
            deque.__init__(bounded, maxlen=rest[1])
            return bounded
        if kind == "tensor":
            return _tensor(self.around.class_of(rest[2]), rest[0], rest[1], live)
        if kind == "generator":
            made = live if type(live) is torch.Generator else torch.Generator(rest[0])
            return made.set_state(rest[1])
        return generator_of(rest[0], rest[1], live) if kind == "random" else None

    def _children(self, record: Record, live: Any) -> Iterator[tuple[Any, Any]]:
        """References of a record, each with the live object in its place."""
        kind, *rest = record
        if kind in ("object", "tensor", *_BASES):
            there = {} if live is None else attributes_of(live)
            yield from ((field, there.get(name)) for name, field in rest[-1].items())
        if kind in DICTS:
            there = live if isinstance(live, dict) else {}
            for key, field in rest[0]:
                yield key, None
                yield field, None if type(key) is tuple else dict.get(there, key)
        elif kind in ("list", "tuple", "named tuple"):
            parts = live if isinstance(live, (list, tuple)) else ()
            for i, field in enumerate(rest[1 if kind == "named tuple" else 0]):
                yield field, parts[i] if i < len(parts) else None
        elif kind in TUPLES or kind in LISTS:
            yield from ((field, None) for field in rest[0])
        elif kind in ("method", "iterator"):
            yield rest[0], getattr(live, "__self__", None)

    def _value(self, field: Any) -> Any:
        """What a field of a record stands for; objects may still be empty."""
        if type(field) is not tuple:
            return field
        (i,) = field
        if i not in self._made:
            made = self._mutable(self.records[i], None)
            self._made[i] = self._immutable(i) if made is None else made
        return self._made[i]

    def _immutable(self, i: int) -> Any:
        """An object that is made of its values at once."""
        kind, *rest = self.records[i]
        if kind not in TUPLES and kind != "named tuple":
            return _MAKERS[kind](self, *rest)
        values = [self._value(field) for field in rest[-1]]
        inner = [field[0] for field in rest[-1] if type(field) is tuple]
        self._sizes[i] = len(values) + sum(self._sizes.get(j, 0) for j in inner)
        if self._sizes[i] > _LARGEST:
            raise ValueError("its tuples are too large")
        if kind == "frozenset":  # its objects may need their attributes
            for j in inner:
                if self.records[j][0] == "object":
                    self._fill(self._made[j], self.records[j])
        if kind != "named tuple":
            return TUPLES[kind](values)
        cls = self.around.class_of(rest[0])
        if not issubclass(cls, tuple):
            raise ValueError(f"{rest[0][:200]} is no named tuple")
        return tuple.__new__(cls, values)

    def _fill(self, made: Any, record: Record) -> None:
        """Give an object its contents."""
        kind, *rest = record
        if kind in ("object", "tensor") or (kind in _BASES and rest[2]):
            found = {k: self._value(v) for k, v in rest[-1].items() if k not in transient(made)}
            set_attributes(made, found | self.around.unsaved(made))
        base: Any = _BASES.get(kind)
        if kind == "tensor":
            made.grad = self._value(rest[3])
        elif kind in LISTS:
            values = [self._value(field) for field in rest[0]]
            base.clear(made)
            base.update(made, values) if kind == "set" else base.extend(made, values)
        elif kind in DICTS:
            values = [(self._value(k), self._value(v)) for k, v in rest[0]]
            base.clear(made)
            if kind == "defaultdict":
                made.default_factory = self._value(rest[1])
            for key, value in values:
                base.__setitem__(made, key, value)

    # ---- Values of the other kinds -----------------------------------------------------------

    def _constant(self, value: Any) -> Any:
        return value

    def _array(self, *parts: Any) -> Any:
        *array, scalar = parts
        made = array_of(*array)
        return made[()] if scalar else made

    def _method(self, owner: Any, function: Any) -> Any:
        bound, name = self._value(owner), self._value(function)
        found = named_method(bound, name) if isinstance(name, str) else name
        if not isinstance(found, types.FunctionType):
            raise ValueError(f"{class_name(type(bound))} has no such method")
        return types.MethodType(found, bound)

    def _weak(self, field: Any) -> Any:
        return weakref.ref(_Gone() if field is None else self._value(field))

    def _partial(self, function: Any, items: list[Any], named: dict[str, Any]) -> Any:
        values = [self._value(field) for field in items]
        keywords = {k: self._value(v) for k, v in named.items()}
        return partial(self._value(function), *values, **keywords)

    def _iterator(self, owner: Any, how: str) -> Any:
        iterated = self._value(owner)
        if how == "ended":
            return iter(())
        if how == "cycle":
            return cycle(iterated)
        function = getattr(type(iterated), "__iter__", None)
        if not isgeneratorfunction(function):
            raise ValueError(f"{class_name(type(iterated))} has no iterator of its own")
        return function(iterated)  # which does nothing before it is asked for a value


class _Gone:
    """What weak references to nothing once referred to."""


def _tensor(cls: type, data: Tensor, requires_grad: bool, live: Any) -> Tensor:
    """The live tensor with these data, where it is like them; else a new one."""
    if not issubclass(cls, Tensor):
        raise ValueError(f"{class_name(cls)} is no tensor")
    if type(live) is cls and live.is_leaf and not live.is_inference():
        alike = (live.dtype, live.device, live.layout) == (data.dtype, data.device, data.layout)
        if alike:
            live.requires_grad_(False)
            live.grad, live.data = None, data
            return live.requires_grad_(requires_grad)
    if cls is Tensor:
        return data.requires_grad_(requires_grad)
    if cls is nn.Parameter:
        return nn.Parameter(data, requires_grad)
    return Tensor._make_subclass(cls, data, requires_grad)


_MAKERS: dict[str, Callable[..., Any]] = {
    "external": lambda reader, name: reader.around.find(name),
    "class": lambda reader, name: reader.around.class_of(name),
    "constant": _Reader._constant,
    "range": lambda _, *ends: range(*ends),
    "array": _Reader._array,
    "member": lambda reader, name, member: reader.around.member(name, member),
    "method": _Reader._method,
    "weak": _Reader._weak,
    "partial": _Reader._partial,
    "iterator": _Reader._iterator,
}
