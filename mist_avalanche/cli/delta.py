"""``mist-avalanche delta info | extract | apply``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from .._support.disk import replacing
from .._support.safetensors import read_state, strict_json
from .._support.states import tensors_of, unique
from ..deltas.delta import apply_delta, save_delta
from ..deltas.file import Delta, read_delta
from ..method.selection import LayerShare, share_table
from ..models.backbones import create_backbone
from ..models.defaults import EMBEDDED


def execute(args: argparse.Namespace) -> None:
    """Run the action that was parsed.

    Raises:
        OSError: a file is missing, or cannot be read or written.
        ValueError: a file is not what it should be, or is of another base.
    """
    if args.action == "info":
        print(described(read_delta(args.delta), args.delta))
        return
    if args.action == "extract":
        settings = _settings(args.settings)
        base, license = _base(args.base, args.weights, _image_size(args, settings))
        delta = save_delta(
            read_state(args.adapted),
            base,
            args.output,
            settings=settings,
            license=args.license or license,
            source=args.source or Path(args.base).name,
        )
        print(f"{args.output}: {_size(args.output)}, {_changed(delta)}")
        return
    size = _image_size(args, read_delta(args.delta).settings)
    base, _ = _base(args.base, args.weights, size)
    delta = apply_delta(base, args.delta)
    given = {"license": delta.license, "source": delta.source}
    metadata = {"format": "pt", **{key: text for key, text in given.items() if text is not None}}
    with replacing(args.output) as temporary:
        save_file({k: v.contiguous() for k, v in unique(base).items()}, temporary, metadata)
    print(f"{args.output}: {_size(args.output)}, {_changed(delta)}")


def _image_size(args: argparse.Namespace, settings: Mapping[str, Any] | None) -> int | None:
    """Of a base that is named: what was asked for, or what a run's settings say."""
    if args.image_size is not None or settings is None or _is_file(args.base):
        size: int | None = args.image_size
        return size
    found = settings.get("image_size")
    return found if type(found) is int and settings.get("backbone") == args.base else None


def _is_file(name: str) -> bool:
    return Path(name).suffix == ".safetensors" or Path(name).is_file()


def _base(
    name: str, weights: str | None, image_size: int | None
) -> tuple[dict[str, Any], str | None]:
    """The tensors of a file or of a backbone, and its licence where that is known."""
    if _is_file(name):
        if image_size is not None:
            raise ValueError(f"--image-size goes with a backbone's name, and {name!r} is a file.")
        if weights is not None:
            raise ValueError(f"--weights goes with a backbone's name, and {name!r} is a file.")
        return read_state(name), None
    model = create_backbone(name, weights, image_size=image_size)
    known: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    license = "MIT" if name == EMBEDDED else known.get("license")
    return tensors_of(model), None if weights else license


def _settings(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        settings = strict_json(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is not a JSON object of settings.")
    return settings


def described(delta: Delta, path: Path) -> str:
    """What a delta's file says, as text that a terminal can show whatever is in it."""
    settings = "not stated" if delta.settings is None else json.dumps(delta.settings)
    rows = []
    for name, (_, shape) in delta.layouts.items():
        change = delta.changes.get(name)
        n = math.prod(shape)
        changed = 0 if change is None else len(change.xor)
        if n:
            rows.append(LayerShare(_printable(name), changed, n, always=False))
    lines = [
        f"source       {_printable(delta.source or 'not stated')}",
        f"licence      {_printable(delta.license or 'not stated')}",
        f"settings     {settings}",
        f"base         {delta.base}",
        f"adapted      {delta.adapted}",
        f"written by   mist_avalanche {_printable(delta.version)}",
        f"changed      {_changed(delta)}",
        f"size         {_size(path)}",
    ]
    return "\n".join(lines) + (f"\n\n{share_table(rows, 'changed')}" if rows else "")


def _changed(delta: Delta) -> str:
    share = delta.changed / max(1, delta.total)
    return f"{delta.changed} of {delta.total} entries ({share:.2%})"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


def _printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
