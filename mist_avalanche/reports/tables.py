"""Tables with one row per method: accuracy and costs, as text, Markdown, LaTeX, HTML, CSV, JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from ..utils import check_choice
from .labels import display_name
from .summary import METRICS, Methods, best, check_same_data, costs, mean_and_std

# Tables are made with Markdown's marks, and tabulate escapes the names; then marks are replaced.
_BOLD = {"pipe": r"**\1**", "html": r"<b>\1</b>", "latex": r"\\textbf{\1}"}
_LATEX = {
    "±": r"$\pm$",
    r"A\_T": "$A_T$",
    r"A\_bar": r"$\bar A$",
    r"A\_new": r"$A_\mathrm{new}$",
}


def table(
    methods: Methods, style: str = "simple", columns: str | Sequence[str] | None = None
) -> str:
    """Accuracy in percent, mean ± standard deviation over seeds.

    Args:
        methods: label to the results of its seeds.
        style: ``"html"``, ``"latex"`` (booktabs) or ``"pipe"`` (Markdown), with the best mean of a
            column in bold; or another format of tabulate.
        columns: some of ``A_T, A_bar, A_new, forgetting``, as a list or comma-separated; None: all.

    Raises:
        ValueError: an unknown column, or runs of different images or weights.
    """
    metrics = check_columns(columns)
    check_same_data(methods)
    rows: dict[str, list[str]] = {label: [] for label in methods}
    for metric in metrics:
        winners = best(methods, metric) if style in _BOLD else []
        for label, runs in methods.items():
            found = mean_and_std(runs)[metric]
            mean = f"**{found['mean']:.1f}**" if label in winners else f"{found['mean']:.1f}"
            rows[label].append(f"{mean} ± {found['std']:.1f}" if len(runs) > 1 else mean)
    return _format(methods, metrics, rows, style)


def cost_table(methods: Methods, style: str = "simple") -> str:
    """Seconds, the GPU's peak memory where one was used, and updated share of the backbone.

    Arguments are those of :func:`table`.
    """
    found = {label: costs(runs) for label, runs in methods.items()}
    columns = {
        "seconds": [f"{cost['seconds']:,.0f}" for cost in found.values()],
        "peak memory (MiB)": [
            "" if cost["memory"] is None else f"{cost['memory'] / 2**20:,.0f}"
            for cost in found.values()
        ],
        "updated (%)": [f"{100 * cost['updated_share']:.2f}" for cost in found.values()],
    }
    shown = {head: column for head, column in columns.items() if any(column)}
    rows = dict(zip(found, zip(*shown.values(), strict=True), strict=True))
    return _format(methods, [*shown], rows, style)


def write_tables(
    methods: Methods, folder: Path, name: str, columns: str | Sequence[str] | None = None
) -> Path:
    """Write ``NAME.md`` and ``.tex`` (accuracy), ``NAME-costs.md`` and ``.tex``, and all numbers.

    ``NAME.csv`` and ``NAME.json`` hold every metric (in percent) and every cost (seconds, bytes, a
    share of 1), unrounded.

    Args:
        methods: label to the results of its seeds.
        folder: of the files.
        name: of the files, without suffix.
        columns: of the Markdown and LaTeX tables of accuracy, as of :func:`table`.

    Returns:
        The path of the Markdown table of accuracy.
    """
    numbers = {}
    for label, runs in methods.items():
        numbers[label] = {"name": display_name(label), "seeds": len(runs)}
        for metric, found in mean_and_std(runs).items():
            numbers[label] |= {metric: found["mean"], f"{metric}_std": found["std"]}
        numbers[label] |= costs(runs)
    texts = {
        f"{name}.md": table(methods, "pipe", columns),
        f"{name}.tex": table(methods, "latex", columns),
        f"{name}-costs.md": cost_table(methods, "pipe"),
        f"{name}-costs.tex": cost_table(methods, "latex"),
        f"{name}.json": json.dumps(numbers, indent=1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(f"{text}\n", encoding="utf-8")
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["method", *next(iter(numbers.values()))])
        writer.writeheader()
        writer.writerows({"method": label, **row} for label, row in numbers.items())
    return folder / f"{name}.md"


def check_columns(columns: str | Sequence[str] | None) -> list[str]:
    """The metrics to show, from a list or a comma-separated string; None: all.

    Raises:
        ValueError: an unknown column.
    """
    names = columns.split(",") if isinstance(columns, str) else columns or METRICS
    return [check_choice("columns", name.strip(), METRICS) for name in names]


def _format(
    methods: Methods, heads: Sequence[str], rows: Mapping[str, Sequence[str]], style: str
) -> str:
    """Rows by label in one of the formats, after each method's name and number of seeds."""
    text: str = tabulate(
        [[display_name(label), len(methods[label]), *row] for label, row in rows.items()],
        ["method", "seeds", *heads],
        tablefmt="latex_booktabs" if style == "latex" else style,
        disable_numparse=True,
        colalign=["left", "right", *["right"] * len(heads)],
    )
    text = re.sub(r"\*\*(\S+)\*\*", _BOLD.get(style, r"\1"), text)
    if style == "latex":
        for plain, command in _LATEX.items():
            text = text.replace(plain, command)
    return text
