"""The command's options. Nothing here needs torch: help comes at once."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .._version import __version__
from ..benchmarks.storage.catalog import DATASETS
from ..models.defaults import NORMALIZATIONS, PRECISIONS
from ..runs.config import BENCHMARKS, LRS, RunConfig
from ..strategies.names import COMPARED, STRATEGIES

_ABOUT = "A run, several methods side by side, ablations, predictions, datasets."
# arguments of MISTPlugin that people change most, as options of their own
SHORT: dict[str, type] = {
    "tune_epochs": int,
    "lr": float,
    "batch_size": int,
    "select_rate": float,
    "drop_rate": float,
}


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is JSON where it can be, else a string; commas make a list."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value.split(",") if "," in value else value


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    top = argparse.ArgumentParser("mist-avalanche", description=_ABOUT)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)

    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    default = RunConfig()
    add("--benchmark", choices=BENCHMARKS, help=f"the images (default: {default.benchmark})")
    for of in ("benchmark", "strategy", "mist"):
        add(
            f"--{of}-arg",
            type=setting,
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"an argument of {'MISTPlugin' if of == 'mist' else f'the {of}'}; may be repeated",
        )
    for name, kind in SHORT.items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=kind, metavar=kind.__name__.upper(), help=f"short for --mist-arg {name}=…")
    add("--dataset-root", metavar="DIR", help="default: Avalanche's data folder")
    add("--experiences", type=int, metavar="N", help=f"how many (default: {default.experiences})")
    add("--seed", type=int, help=f"of training (default: {default.seed})")
    add("--order-seed", type=int, help=f"of the class order (default: {default.order_seed})")
    add("--backbone", help="'embedded', which is the default, or a name of timm")
    add("--weights", metavar="FILE", help="weights of the backbone, instead of timm's hub")
    add("--image-size", type=int, metavar="PIXELS", help="default: that of the pretraining")
    add(
        "--normalize",
        choices=NORMALIZATIONS,
        help="of the images: as in the published runs, as the backbone was pretrained, or none "
        "(default: published for the paper's ViT, pretrained for others)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default=default.device, help="that computes")
    add("--precision", choices=PRECISIONS, help=f"of the backbone (default: {default.precision})")
    add("--compile", action="store_true", help="use torch.compile")
    add("--num-workers", type=int, default=default.num_workers, help="of the data loaders")
    add("--quiet", action="store_true", help="no progress bars")

    common = argparse.ArgumentParser(add_help=False, parents=[shared])
    add = common.add_argument
    add("--first", type=int, metavar="N", help="the first N experiences only")
    add("--seeds", type=int, default=1, metavar="N", help="run N seeds, from --seed on")
    add("--jobs", type=int, metavar="J", help="runs at a time; default: one a GPU or a core")
    add("--vary-order", action="store_true", help="a class order of its own for every seed")
    output = "default: results/BENCHMARK-METHOD, or -comparison, or -ablations"
    add("--output", metavar="DIR", help=output)
    add("--resume", action="store_true", help="go on where runs of the same settings were stopped")
    add("--overwrite", action="store_true", help="replace finished runs")
    add("--dry-run", action="store_true", help="show what would run, and stop")
    add(
        "--checkpoint-every",
        type=float,
        default=default.checkpoint_every,
        metavar="SECONDS",
        help="between two checkpoints within an experience, while MIST tunes or a strategy trains "
        "(default: %(default)s); there is one after each experience anyway",
    )

    run = commands.add_parser("run", parents=[common], help="one method")
    run.add_argument(
        "--strategy", choices=STRATEGIES, help=f"the method (default: {default.strategy})"
    )
    run.add_argument("--mist", action="store_true", help="add MISTPlugin")
    run.add_argument(
        "--config",
        metavar="FILE.json",
        help="the results.json of a run, to repeat it; or settings of the reference "
        "implementation, instead of benchmark, strategy, mist, experiences and order seed",
    )
    run.add_argument(
        "--drift-compensation",
        action="store_true",
        help="let simplecil or ranpac follow a backbone that is tuned again",
    )
    compare = commands.add_parser("compare", parents=[common], help="several methods")
    compare.add_argument(
        "--strategies",
        default=",".join(COMPARED),
        help="comma-separated; '+mist' adds MISTPlugin, '+drift' drift compensation "
        "(default: %(default)s)",
    )
    compare.add_argument(
        "--columns",
        metavar="A,B,…",
        help="of the table of accuracy (default: A_T,A_bar,A_new,forgetting, which are all)",
    )
    ablate = commands.add_parser("ablate", parents=[common], help="what parts of MIST are worth")
    ablate.add_argument("--strategies", default="simplecil,ranpac", help="comma-separated")
    suggest = commands.add_parser(
        "suggest",
        parents=[shared],
        help="learning rates of MIST, tried on training images of the first experience",
    )
    suggest.add_argument("--lrs", metavar="LR,…", help=f"default: {','.join(map(str, LRS))}")
    suggest.add_argument("--splits", type=int, default=1, metavar="N", help="draws to average")
    _add_predict(commands)
    inspect = commands.add_parser("inspect", help="where MIST may move the backbone, of one run")
    inspect.add_argument("results", type=Path, help="results.json, or the folder that has it")
    _add_data(commands.add_parser("data", help="the image datasets on disk"))
    _add_delta(commands.add_parser("delta", help="what tuning changed, as a small file"))
    return top


def _add_data(command: argparse.ArgumentParser) -> None:
    """``data list | get | check``."""
    actions = command.add_subparsers(dest="action", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", metavar="DIR", help="default: Avalanche's data folder")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    actions.add_parser("list", parents=[common], help="which there are, and where copies are")
    get = actions.add_parser("get", parents=[common], help="download from the official source")
    check = actions.add_parser("check", parents=[common], help="read every image of a copy")
    check.add_argument("--split", help="official, processed or hash; default: what is there")
    get.add_argument("name", choices=DATASETS)
    check.add_argument("name", choices=(*DATASETS, "folder"))


def _add_predict(commands: Any) -> None:
    """``predict``."""
    add = commands.add_parser("predict", help="classes of images, by a finished run").add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add("--run", required=True, metavar="DIR", help="folder of the run, with seeds one seed's")
    add("--top", type=int, default=5, metavar="K", help="classes an image (default: 5)")
    add("--weights", metavar="FILE", help="of the backbone, where the run's file is gone")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--json", action="store_true", help="print JSON")


def _add_delta(command: argparse.ArgumentParser) -> None:
    """``delta info | extract | apply``."""
    actions = command.add_subparsers(dest="action", required=True)
    info = actions.add_parser("info", help="what a delta changes, and where it comes from")
    info.add_argument("delta", type=Path, metavar="FILE")
    extract = actions.add_parser("extract", help="write what differs between two checkpoints")
    apply = actions.add_parser("apply", help="write the checkpoint that a delta leads to")
    for action in (extract, apply):
        action.add_argument(
            "--base", required=True, help="a .safetensors file, 'embedded' or a name of timm"
        )
        action.add_argument(
            "--weights", metavar="FILE", help="weights of a base that is named, not timm's hub's"
        )
        action.add_argument(
            "--image-size",
            type=int,
            metavar="PIXELS",
            help="of a base that is named; default: what the settings of the delta say",
        )
    extract.add_argument("--adapted", type=Path, required=True, metavar="FILE.safetensors")
    extract.add_argument("--settings", type=Path, metavar="FILE.json", help="how it was made")
    extract.add_argument("--license", help="of the base; default: what timm says of a name")
    extract.add_argument("--source", help="of the base; default: its name")
    apply.add_argument("delta", type=Path, metavar="DELTA")
    for action in (extract, apply):
        action.add_argument("output", type=Path, metavar="OUT")
