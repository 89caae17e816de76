"""Tables with one row per method: accuracy and costs, as text, Markdown, LaTeX, HTML, CSV, JSON."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from ..utils import atomic_write, check_choice
from .labels import display_name
from .summary import METRICS, Methods, costs, mean_and_std, ranks

# How each format shows a cell that is unranked, best, second. Markdown has no underline but HTML's.
_MARKS = {
    "pipe": ("{}", "**{}**", "<ins>{}</ins>"),
    "html": ("{}", "<b>{}</b>", "<u>{}</u>"),
    "latex": ("{}", r"\textbf{{{}}}", r"\underline{{{}}}"),
}
_LATEX_HEADS = {"A_T": "$A_T$", "A_bar": r"$\bar A$", "A_new": r"$A_\mathrm{new}$"}
_LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


class Cell(NamedTuple):
    """A name or a number, its rank (1 best, 2 second), and the spread, which is never marked."""

    text: str
    rank: int = 0
    spread: str = ""


def table(
    methods: Methods, style: str = "simple", columns: str | Sequence[str] | None = None
) -> str:
    """Accuracy in percent, mean ± standard deviation over seeds.

    Args:
        methods: label to the results of its seeds.
        style: ``"html"``, ``"latex"`` (booktabs), or a format of tabulate such as ``"simple"`` or
            ``"pipe"`` (Markdown). HTML, LaTeX and Markdown show the best mean of a column in bold
            and, among three methods or more, the second best underlined.
        columns: some of ``A_T, A_bar, A_new, forgetting``, as a list or comma-separated; None: all.

    Raises:
        ValueError: an unknown column.
    """
    metrics = check_columns(columns)
    rows = []
    for label, runs in methods.items():
        row = [Cell(display_name(label)), Cell(str(len(runs)))]
        for metric in metrics:
            found = mean_and_std(runs)[metric]
            spread = f" ± {found['std']:.1f}" if len(runs) > 1 else ""
            row.append(Cell(f"{found['mean']:.1f}", ranks(methods, metric).get(label, 0), spread))
        rows.append(row)
    return _written(style, ["method", "seeds", *metrics], rows)


def cost_table(methods: Methods, style: str = "simple") -> str:
    """Seconds, peak memory and updated entries, means over seeds; empty where not measured.

    Args:
        methods: label to the results of its seeds.
        style: as of :func:`table`.
    """
    heads, rows = ["method", "seeds"], []
    for label, runs in methods.items():
        found = costs(runs)
        heads[2:] = found
        numbers = [
            "" if value is None else f"{value:.2f}" if "%" in name else f"{value:,.0f}"
            for name, value in found.items()
        ]
        rows.append([Cell(text) for text in (display_name(label), str(len(runs)), *numbers)])
    return _written(style, heads, rows)


def write_tables(
    methods: Methods, folder: Path, name: str, columns: str | Sequence[str] | None = None
) -> Path:
    """Write accuracy as ``NAME.md, .tex, .csv, .json`` and costs as ``NAME-costs.*``.

    CSV and JSON have every metric in full precision, by label.

    Args:
        methods: label to the results of its seeds.
        folder: of the files.
        name: of the files, without suffix.
        columns: of the Markdown and LaTeX tables of accuracy, as of :func:`table`.

    Returns:
        The path of the Markdown table of accuracy.
    """
    metrics = {label: mean_and_std(runs) for label, runs in methods.items()}
    spent = {label: costs(runs) for label, runs in methods.items()}
    seeds = {label: {"seeds": len(runs)} for label, runs in methods.items()}
    files = {
        f"{name}.md": table(methods, "pipe", columns) + "\n",
        f"{name}.tex": table(methods, "latex", columns),
        f"{name}.csv": _csv({k: {**seeds[k], **_flat(metrics[k])} for k in methods}),
        f"{name}.json": _json({k: {**seeds[k], "metrics": metrics[k]} for k in methods}),
        f"{name}-costs.md": cost_table(methods, "pipe") + "\n",
        f"{name}-costs.tex": cost_table(methods, "latex"),
        f"{name}-costs.csv": _csv({k: {**seeds[k], **spent[k]} for k in methods}),
        f"{name}-costs.json": _json({k: {**seeds[k], **spent[k]} for k in methods}),
    }
    for file, text in files.items():
        with atomic_write(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / f"{name}.md"


def check_columns(columns: str | Sequence[str] | None) -> list[str]:
    """The metrics to show, from a list or a comma-separated string; None: all.

    Raises:
        ValueError: an unknown column.
    """
    names = columns.split(",") if isinstance(columns, str) else columns or METRICS
    return [check_choice("columns", name.strip(), METRICS) for name in names]


def _written(style: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    escape = {"html": html.escape, "latex": _latex_text, "pipe": _markdown_text}.get(style, str)
    patterns = _MARKS.get(style, ("{}", "{}", "{}"))
    texts = [
        [patterns[cell.rank].format(escape(cell.text)) + escape(cell.spread) for cell in row]
        for row in rows
    ]
    if style == "latex":
        return _latex(heads, texts)
    written: str = tabulate(
        texts,
        heads,
        tablefmt="unsafehtml" if style == "html" else style,  # the cells are escaped above
        disable_numparse=True,
        colalign=["left", *["right"] * (len(heads) - 1)] if rows else None,
    )
    return written


def _latex(heads: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    names = [_LATEX_HEADS.get(head, _latex_text(head[0].upper() + head[1:])) for head in heads]
    body = "".join(f"{' & '.join(row)} \\\\\n" for row in texts)
    return (
        "% needs \\usepackage{booktabs}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n\\toprule\n"
        f"{' & '.join(names)} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def _latex_text(text: str) -> str:
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: _LATEX_CHARACTERS[found[0]], text)


def _markdown_text(text: str) -> str:
    return text.replace("|", r"\|")  # a bar would end the cell


def _flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    means = {name: found["mean"] for name, found in metrics.items()}
    return {**means, **{f"{name}_std": found["std"] for name, found in metrics.items()}}


def _csv(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    out = io.StringIO()
    rows = [{"method": k, "name": display_name(k), **row} for k, row in numbers.items()]
    writer = csv.DictWriter(out, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
