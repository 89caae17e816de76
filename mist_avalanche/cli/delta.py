"""``mist-avalanche delta extract | apply``: what tuning changed, as a small file."""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two actions."""
    actions = parser.add_subparsers(dest="action", required=True)
    extract = actions.add_parser("extract", help="write the difference of two backbones")
    apply = actions.add_parser("apply", help="write the backbone that a delta produces")
    for action in (extract, apply):
        add = action.add_argument
        add("delta", type=Path, metavar="DELTA")
        add("--base", required=True, help="a .safetensors file, 'embedded' or a timm name")
        add("--weights", metavar="FILE", help="weights of a named base, instead of timm's hub")
        add("--image-size", type=int, metavar="PIXELS", help="image size of a named base")
    extract.add_argument("--adapted", required=True, help="a .safetensors file or a run's folder")
    extract.add_argument("--card", action="store_true", help="write README.md beside DELTA")
    apply.add_argument("output", type=Path, metavar="OUT")


def execute(args: argparse.Namespace) -> None:
    """Run the action."""
    from safetensors.torch import save_file

    from ..deltas import apply_delta, save_delta
    from ..utils import atomic_write

    card = args.delta.with_name("README.md")
    if args.action == "extract":
        if args.card and card.exists():
            raise ValueError(f"{card} exists. Move it, or omit --card.")
        if args.card and args.base.endswith(".safetensors"):
            raise ValueError("--card needs the name of the --base, not a file.")
        save_delta(_tensors(args.adapted, args), _tensors(args.base, args), args.delta)
        print(f"{args.delta}: {args.delta.stat().st_size / 1e6:.2f} MB")
        if args.card:
            from ..reports.card import delta_card
            from ..runs.results import read_results

            results = read_results(args.adapted) if Path(args.adapted).is_dir() else None
            text = delta_card(args.delta, args.base, args.image_size, results)
            card.write_text(text, encoding="utf-8")
    else:
        tensors = _tensors(args.base, args)
        apply_delta(tensors, args.delta)
        with atomic_write(args.output) as temporary:
            save_file(tensors, temporary, {"format": "pt"})
        print(f"{args.output}: {args.base} with {args.delta}")


def _tensors(place: str, args: argparse.Namespace) -> dict[str, Any]:
    """The tensors of a backbone, given by a file, a run or a name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..models.backbones import create_backbone

    if Path(place).is_dir():
        from ..runs import load_run

        return dict(load_run(place).model.get_submodule("backbone").state_dict())
    if place.endswith(".safetensors"):
        try:
            return dict(load_file(place))
        except SafetensorError as error:
            raise ValueError(f"{place} is not a safetensors file: {error}.") from error
    return dict(create_backbone(place, args.weights, image_size=args.image_size).state_dict())
