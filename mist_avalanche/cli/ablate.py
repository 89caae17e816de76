"""``mist-avalanche ablate``: what each part of MIST contributes (the paper's Table 2)."""

import argparse
from dataclasses import replace

from .options import add_experiment, config_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ablate``."""
    add_experiment(parser)
    names = "comma-separated (default: %(default)s)"
    parser.add_argument("--strategies", default="simplecil,ranpac", help=names)


def execute(args: argparse.Namespace) -> None:
    """Run every strategy without MIST, with MIST, and with each ablation."""
    from ..method.ablations import ABLATIONS
    from .experiment import run_and_report

    methods, notes = [], {}
    for name in args.strategies.split(","):
        plain = replace(config_of(args), strategy=name.strip(), mist=False)
        full = replace(plain, mist=True)
        methods += [plain, full]
        notes[plain.label] = "The strategy without MIST."
        notes[full.label] = "The full method, with the settings below."
        for ablation, about in ABLATIONS.items():
            label, mist_args = f"{plain.label}+{ablation}", {**full.mist_args, **about.mist_args}
            methods.append(replace(full, mist_args=mist_args, name=label))
            notes[label] = about.changes
    run_and_report(methods, args, "ablations", notes=notes)
