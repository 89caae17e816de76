"""What the records of an object graph look like; nothing else is read.

A record is a list ``[kind, ...]``. Where it refers to another record there is a tuple
``(number,)``; numbers, strings, booleans and None stand for themselves.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

Record = list[Any]
PRIMITIVES = (bool, int, float, str, type(None))
DICTS: Mapping[str, type] = MappingProxyType(
    {c.__name__: c for c in (dict, OrderedDict, Counter, defaultdict)}
)
LISTS: Mapping[str, type] = MappingProxyType({c.__name__: c for c in (list, set, deque)})
# made of their items at once
TUPLES: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {c.__name__: c for c in (tuple, frozenset, torch.Size)} | {"slice": lambda v: slice(*v)}
)
CONSTANTS = (torch.dtype, torch.device, torch.layout, bytes, complex)

_FIELD, _FIELDS, _PAIRS, _NAMED, _ANY = "field", "fields", "pairs", "named fields", "any"
_SHAPES: dict[str, tuple[Any, ...]] = {
    "external": (str,),
    "class": (str,),
    "object": (str, _NAMED),  # class, attributes
    "tensor": (Tensor, bool, str, _FIELD, _NAMED),  # requires_grad, class, grad, attributes
    **dict.fromkeys(DICTS, (_PAIRS, _FIELD, str, _NAMED)),  # factory, own class, attributes
    **dict.fromkeys(LISTS, (_FIELDS, _FIELD, str, _NAMED)),  # maxlen, own class, attributes
    **dict.fromkeys(TUPLES, (_FIELDS,)),
    "named tuple": (str, _FIELDS),
    "constant": (CONSTANTS,),
    "range": (int, int, int),
    "array": (Tensor, str, list, list, int, bool),
    "generator": (str, Tensor),  # device, state
    "random": (str, _ANY),
    "member": (str, str),
    "method": (_FIELD, _FIELD),
    "iterator": (_FIELD, str),
    "weak": (_FIELD,),
    "partial": (_FIELD, _FIELDS, _NAMED),
}


def checked(records: Any) -> list[Record]:
    """Records that refer to each other and have the parts that their kinds have.

    Raises:
        ValueError: they do not.
    """
    if type(records) is not list or not records:
        raise ValueError("it has no records")
    count = len(records)
    for i, record in enumerate(records):
        kind = record[0] if type(record) is list and record else None
        shape = _SHAPES.get(kind) if type(kind) is str else None
        if shape is None or len(record) != 1 + len(shape):
            raise ValueError(f"its record {i} of {count} is none that is known")
        for part, wanted in zip(record[1:], shape, strict=True):
            if not _fits(part, wanted, count):
                raise ValueError(f"its record {i} of {count} is no {kind}")
    return records


def _fits(part: Any, wanted: Any, count: int) -> bool:
    """Whether a part of a record is what it should be."""
    if wanted is _ANY:
        return True
    if wanted is _FIELD:
        return _is_field(part, count)
    if wanted is _FIELDS:
        return type(part) is list and all(_is_field(field, count) for field in part)
    if wanted is _PAIRS:
        return type(part) is list and all(_fits(p, _FIELDS, count) and len(p) == 2 for p in part)
    if wanted is _NAMED:
        fields = type(part) is dict and all(type(name) is str for name in part)
        return fields and all(_is_field(field, count) for field in part.values())
    return isinstance(part, wanted) and (wanted is not int or type(part) is int)


def _is_field(field: Any, count: int) -> bool:
    """Whether this is a value that stands for itself, or refers to a record."""
    if type(field) is tuple:
        return len(field) == 1 and type(field[0]) is int and 0 <= field[0] < count
    return type(field) in PRIMITIVES
