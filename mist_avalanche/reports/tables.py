"""Runs as tables: one row a method, for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from .._support.disk import replacing
from ..strategies.names import display_name
from .summary import COSTS, METRICS, Runs, costs, mean_and_std


def table(methods: Mapping[str, Runs], style: str = "simple") -> str:
    """One row a method.

    Metrics in percent, mean ± std over seeds; seconds a run; entries of the model that may be
    trained, and entries of the backbone that are not as they were.

    Args:
        methods: name to the results of its seeds.
        style: a format of tabulate, such as ``"simple"``, ``"pipe"`` or ``"latex_booktabs"``.
    """
    rows = []
    for label, runs in methods.items():
        summary = mean_and_std(runs)
        cells = [
            f"{summary[m]['mean']:.1f}" + (f" ± {summary[m]['std']:.1f}" if len(runs) > 1 else "")
            for m in METRICS
        ]
        spent = ["" if v is None else f"{v:.0f}" for v in costs(runs).values()]
        rows.append([display_name(label), str(len(runs)), *cells, *spent])
    header = ["method", "seeds", *METRICS, *COSTS]
    text: str = tabulate(
        rows,
        header,
        tablefmt=style,
        disable_numparse=True,
        colalign=["left", *["right"] * (len(header) - 1)],
    )
    return text


def as_csv(methods: Mapping[str, Runs]) -> str:
    """One line a method, with numbers in full: ``A_T``, ``A_T_std`` and so on."""
    out = io.StringIO()
    names = [name for m in METRICS for name in (m, f"{m}_std")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "name", "seeds", *names, *COSTS])
    for label, runs in methods.items():
        summary = mean_and_std(runs)
        values = [value for m in METRICS for value in (summary[m]["mean"], summary[m]["std"])]
        writer.writerow([label, display_name(label), len(runs), *values, *costs(runs).values()])
    return out.getvalue()


def write_tables(methods: Mapping[str, Runs], folder: Path, name: str) -> Path:
    """``NAME.md``, ``.tex``, ``.csv`` and ``.json``; returns the first."""
    content = {
        "md": table(methods, "pipe") + "\n",
        "tex": table(methods, "latex_booktabs").replace("±", r"$\pm$") + "\n",
        "csv": as_csv(methods),
        "json": json.dumps(
            {
                label: {"seeds": len(runs), "metrics": mean_and_std(runs), **costs(runs)}
                for label, runs in methods.items()
            },
            indent=1,
        )
        + "\n",
    }
    for suffix, text in content.items():
        with replacing(folder / f"{name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / f"{name}.md"
