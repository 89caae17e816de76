"""Objects as their attributes: what they have, and how it is set without calling anything."""

from __future__ import annotations

import io
import types
from collections.abc import Collection, Iterator
from copyreg import _slotnames  # type: ignore[attr-defined]
from enum import Enum
from itertools import chain
from typing import Any

import numpy as np
import torch
from avalanche.core import BasePlugin
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor

# Attributes that are made anew for every experience; loggers are the new process's own.
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
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # of tensors
# What is taken from the new process as it is there
NAMED = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    io.IOBase,
    BaseLogger,
)
# What has a state that cannot be seen, or not be set
HIDDEN = (Iterator, bytearray, memoryview, np.random.BitGenerator, torch.jit.ScriptModule)


def class_name(cls: type) -> str:
    """Module and qualified name."""
    return f"{cls.__module__}:{cls.__qualname__}"


def is_heap(cls: type) -> bool:
    """Whether a class was defined in Python."""
    return bool(cls.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE


def is_plain(cls: type) -> bool:
    """Whether instances are nothing but their attributes: Python's classes down to object.

    Those that do something when they go are not: one made of a file could do anything then.
    """
    ours = all(c is object or is_heap(c) for c in cls.__mro__ if c.__module__ != "typing")
    if (
        cls is object
        or hasattr(cls, "__del__")
        or not ours
        or issubclass(cls, (*NAMED, type, Enum, torch.jit.ScriptModule))
    ):
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
    """The attributes of an object, those in slots and the hooks of a tensor among them."""
    found = dict(getattr(value, "__dict__", {}))
    if isinstance(value, Tensor):
        found.update((n, hooks) for n in _HOOKS if (hooks := getattr(value, n, None)))
    elif not isinstance(value, type):
        for name in _slotnames(type(value)):
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Make these the attributes of an object, past whatever ``__setattr__`` it has."""
    own = getattr(value, "__dict__", {})
    own.clear()
    apart = _HOOKS if isinstance(value, Tensor) else _slotnames(type(value))
    for name in apart:
        if name in attributes:
            object.__setattr__(value, name, attributes[name])
        elif isinstance(value, Tensor):
            setattr(value, name, None)
        elif hasattr(value, name):
            object.__delattr__(value, name)
    own.update((name, part) for name, part in attributes.items() if name not in apart)
