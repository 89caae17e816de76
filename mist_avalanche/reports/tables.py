"""Runs as tables, one row a method: accuracy, and what it costs; as files of several formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._support.disk import replacing
from ..strategies.names import display_name
from .columns import COLUMNS, chosen, ranks
from .markup import Cell, as_html, as_latex, as_text
from .report import write_json
from .summary import COSTS, Runs, costs, mean_and_std

Columns = str | Sequence[str] | None
Rows = list[list[Cell]]


def table(methods: Mapping[str, Runs], style: str = "simple", columns: Columns = None) -> str:
    """Accuracy in percent, mean ± std over seeds.

    Args:
        methods: name to the results of its seeds.
        style: ``"html"``, ``"latex"``, or a format of tabulate, such as ``"simple"`` or ``"pipe"``.
            In HTML, LaTeX and Markdown (``"pipe"``) the best mean of a column is bold, and of three
            methods or more the second is underlined.
        columns: which metrics, as a list or between commas; None for all.
    """
    names = chosen(columns)
    return _written(accuracy_rows(methods, names), style, *_accuracy_heads(names))


def cost_table(methods: Mapping[str, Runs], style: str = "simple") -> str:
    """Time, memory and updated entries, means over seeds; empty where a run has not measured it."""
    return _written(cost_rows(methods), style, *_cost_heads())


def accuracy_rows(methods: Mapping[str, Runs], names: Sequence[str]) -> Rows:
    """Name, number of seeds, and the columns of every method."""
    places = {name: ranks(methods, name) for name in names}
    rows = []
    for label, runs in methods.items():
        row = [Cell(display_name(label)), Cell(str(len(runs)))]
        for name in names:
            found = mean_and_std(runs)[name]
            spread = f" ± {found['std']:.1f}" if len(runs) > 1 else ""
            row.append(Cell(f"{found['mean']:.1f}", spread, places[name].get(label, 0)))
        rows.append(row)
    return rows


def cost_rows(methods: Mapping[str, Runs]) -> Rows:
    """Name, number of seeds, and the costs of every method."""
    return [
        [
            Cell(display_name(label)),
            Cell(str(len(runs))),
            *(
                Cell("" if value is None else COSTS[name].shown(value))
                for name, value in costs(runs).items()
            ),
        ]
        for label, runs in methods.items()
    ]


def _accuracy_heads(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    return (
        ["method", "seeds", *names],
        ["method", "seeds", *(COLUMNS[name].html for name in names)],
        ["Method", "Seeds", *(COLUMNS[name].latex for name in names)],
    )


def _cost_heads() -> tuple[list[str], list[str], list[str]]:
    heads = ["method", "seeds", *(cost.head for cost in COSTS.values())]
    return heads, heads, [(h[:1].upper() + h[1:]).replace("%", r"\%") for h in heads]


def _written(rows: Rows, style: str, text: list[str], html: list[str], latex: list[str]) -> str:
    """Rows in one of the formats, with its heads."""
    if style == "html":
        return as_html(html, rows)
    return as_latex(latex, rows) if style == "latex" else as_text(text, rows, style)


def html_table(methods: Mapping[str, Runs], columns: Columns, notes: Mapping[str, str]) -> str:
    """The accuracy table of a page, with a sentence beside the methods that have one."""
    names = chosen(columns)
    said = [notes.get(label, "") for label in methods] if notes else []
    return as_html(_accuracy_heads(names)[1], accuracy_rows(methods, names), said)


def write_tables(
    methods: Mapping[str, Runs], folder: Path, name: str, columns: Columns = None
) -> Path:
    """Accuracy as ``NAME.md``, ``.tex``, ``.csv`` and ``.json``, what it costs as ``NAME-costs.*``.

    CSV and JSON have every metric, in full, by the name that the command has for a method.

    Args:
        methods: name to the results of its seeds.
        folder: of the files.
        name: of the files.
        columns: of the Markdown and LaTeX tables of accuracy; None for all.

    Returns:
        The first file.
    """
    summaries = {label: mean_and_std(runs) for label, runs in methods.items()}
    spent = {label: costs(runs) for label, runs in methods.items()}
    numbers = {
        label: {key: v for m in s for key, v in ((m, s[m]["mean"]), (f"{m}_std", s[m]["std"]))}
        for label, s in summaries.items()
    }
    seeds = {label: len(runs) for label, runs in methods.items()}
    files = {
        f"{name}.md": table(methods, "pipe", columns) + "\n",
        f"{name}.tex": table(methods, "latex", columns),
        f"{name}.csv": _csv(seeds, numbers),
        f"{name}-costs.md": cost_table(methods, "pipe") + "\n",
        f"{name}-costs.tex": cost_table(methods, "latex"),
        f"{name}-costs.csv": _csv(seeds, spent),
    }
    for file, text in files.items():
        with replacing(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    found = {label: {"seeds": seeds[label], "metrics": s} for label, s in summaries.items()}
    write_json(found, folder / f"{name}.json")
    found = {label: {"seeds": seeds[label], **each} for label, each in spent.items()}
    write_json(found, folder / f"{name}-costs.json")
    return folder / f"{name}.md"


def _csv(seeds: Mapping[str, int], numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a method, with numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "name", "seeds", *next(iter(numbers.values()))])
    for label, values in numbers.items():
        writer.writerow([label, display_name(label), seeds[label], *values.values()])
    return out.getvalue()
