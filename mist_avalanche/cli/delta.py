"""``mist-avalanche delta info | extract | apply``: what tuning changed, as a small file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The three actions."""
    actions = parser.add_subparsers(dest="action", required=True)
    info = actions.add_parser("info", help="what a delta says about itself")
    extract = actions.add_parser("extract", help="write what differs between two checkpoints")
    apply = actions.add_parser("apply", help="write the checkpoint that a delta leads to")
    for action in (info, apply):
        action.add_argument("delta", type=Path, metavar="DELTA")
    for action in (extract, apply):
        add = action.add_argument
        add("--base", required=True, help="a .safetensors file, 'embedded' or a timm name")
        add("--weights", metavar="FILE", help="weights of a named base, instead of timm's hub")
        add("--image-size", type=int, metavar="PIXELS", help="of a named base")
    add = extract.add_argument
    add("--adapted", type=Path, required=True, metavar="FILE.safetensors")
    add("--settings", type=Path, metavar="FILE.json", help="how the model was made")
    add("--license", help="of the base")
    add("--source", help="of the base (default: its name)")
    for action in (extract, apply):
        action.add_argument("output", type=Path, metavar="OUT")


def execute(args: argparse.Namespace) -> None:
    """Run one action.

    Raises:
        OSError: a file is missing, or cannot be read or written.
        ValueError: a file is not what it should be, or belongs to another base.
    """
    from safetensors.torch import save_file

    from ..deltas import apply_delta, read_info, save_delta
    from ..utils import atomic_write

    if args.action == "extract":
        info = save_delta(
            _read(args.adapted),
            _base(args),
            args.output,
            settings=json.loads(args.settings.read_text()) if args.settings else None,
            license=args.license,
            source=args.source or Path(args.base).name,
        )
        print(f"{args.output}: {info.changed:,} of {info.total:,} entries changed")
        return
    info = read_info(args.delta)
    if args.action == "info":
        print(json.dumps(vars(info), indent=1))
        return
    tensors = _base(args)
    apply_delta(tensors, args.delta)
    metadata = {key: text for key in ("license", "source") if (text := getattr(info, key))}
    with atomic_write(args.output) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, {"format": "pt", **metadata})
    print(f"{args.output}: {info.changed:,} of {info.total:,} entries changed")


def _base(args: argparse.Namespace) -> dict[str, Any]:
    """The tensors of a file or of a named backbone."""
    from ..models.backbones import create_backbone

    if args.base.endswith(".safetensors"):
        if args.weights or args.image_size:
            raise ValueError(f"--weights and --image-size need a named base, got {args.base}.")
        return _read(args.base)
    model = create_backbone(args.base, args.weights, image_size=args.image_size)
    return dict(model.state_dict())


def _read(path: str | Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}.") from error
