"""``mist-avalanche delta info | extract | apply``: what tuning changed, as a small file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
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
    add("--adapted", type=Path, required=True, help="a .safetensors file, or the folder of a run")
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
    from ..deltas import read_info, save_delta

    if args.action == "extract":
        save_delta(
            _adapted(args.adapted),
            _base(args),
            args.output,
            settings=json.loads(args.settings.read_text()) if args.settings else None,
            license=args.license,
            source=args.source or Path(args.base).name,
        )
        info = read_info(args.output)
    else:
        info = read_info(args.delta)
        if args.action == "apply":
            _apply(args, info)
    print(json.dumps(info, indent=1))


def _apply(args: argparse.Namespace, info: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    from ..deltas import apply_delta
    from ..utils import atomic_write

    tensors = _base(args)
    apply_delta(tensors, args.delta)
    metadata = {key: info[key] for key in ("license", "source") if info[key]}
    with atomic_write(args.output) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, {"format": "pt", **metadata})


def _adapted(path: Path) -> dict[str, Any]:
    """The tensors of a file, or of the backbone of a finished run."""
    if path.is_dir():
        from ..runs import load_run

        return dict(load_run(path).model.get_submodule("backbone").state_dict())
    return _read(path)


def _base(args: argparse.Namespace) -> dict[str, Any]:
    """The tensors of a file or of a named backbone."""
    if args.base.endswith(".safetensors"):
        if args.weights or args.image_size:
            raise ValueError(f"--weights and --image-size need a named base, got {args.base}.")
        return _read(args.base)
    from ..models.backbones import create_backbone

    model = create_backbone(args.base, args.weights, image_size=args.image_size)
    return dict(model.state_dict())


def _read(path: str | Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}.") from error
