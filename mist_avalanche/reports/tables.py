"""Tables with one row per method: accuracy and costs, as text, Markdown, LaTeX, HTML, CSV, JSON."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from ..utils import atomic_write, check_choice
from .labels import display_name
from .summary import METRICS, Methods, costs, mean_and_std, ranks

# How a format shows a mean that is unranked, best, second. Markdown underlines by HTML alone.
_MARKS = {
    "pipe": ("{}", "**{}**", "<ins>{}</ins>"),
    "html": ("{}", "<b>{}</b>", "<u>{}</u>"),
    "latex": ("{}", r"\textbf{{{}}}", r"\underline{{{}}}"),
}
_COST_FORMATS = {
    "seconds": ("seconds", 1, "{:,.0f}"),
    "memory": ("peak memory (MiB)", 1 / 2**20, "{:,.0f}"),
    "updated": ("updated", 1, "{:,.0f}"),
    "updated_share": ("updated (%)", 100, "{:.2f}"),
}
_LATEX_HEADS = {"A_T": "$A_T$", "A_bar": r"$\bar A$", "A_new": r"$A_\mathrm{new}$"}
_LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


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
    places = {metric: ranks(methods, metric) for metric in metrics}
    marks = _MARKS.get(style, ("{}", "{}", "{}"))
    plus_minus = r"$\pm$" if style == "latex" else "±"
    rows = []
    for label, runs in methods.items():
        found, row = mean_and_std(runs), []
        for metric in metrics:
            mark = marks[places[metric].get(label, 0)]
            spread = f" {plus_minus} {found[metric]['std']:.1f}" if len(runs) > 1 else ""
            row.append(mark.format(f"{found[metric]['mean']:.1f}") + spread)
        rows.append(row)
    return _written(methods, style, metrics, rows)


def cost_table(methods: Methods, style: str = "simple") -> str:
    """Seconds, peak memory and updated entries, means over seeds; empty where not measured.

    Arguments are those of :func:`table`.
    """
    rows = []
    for runs in methods.values():
        found, row = costs(runs), []
        for name, (_, factor, pattern) in _COST_FORMATS.items():
            value = found[name]
            row.append("" if value is None else pattern.format(factor * value))
        rows.append(row)
    return _written(methods, style, [head for head, *_ in _COST_FORMATS.values()], rows)


def write_tables(
    methods: Methods, folder: Path, name: str, columns: str | Sequence[str] | None = None
) -> Path:
    """Write ``NAME.md`` and ``.tex`` (accuracy), ``NAME-costs.md`` and ``.tex``, and all numbers.

    The numbers are ``NAME.csv`` and ``NAME.json``: every metric and cost in full precision, by
    label. Seconds, bytes, and shares of 1; accuracies are in percent.

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
    out = io.StringIO()
    writer = csv.DictWriter(out, ["method", *next(iter(numbers.values()), {})], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"method": label, **row} for label, row in numbers.items())
    files = {
        f"{name}.md": table(methods, "pipe", columns),
        f"{name}.tex": table(methods, "latex", columns),
        f"{name}-costs.md": cost_table(methods, "pipe"),
        f"{name}-costs.tex": cost_table(methods, "latex"),
        f"{name}.json": json.dumps(numbers, indent=1),
        f"{name}.csv": out.getvalue().rstrip(),
    }
    for file, text in files.items():
        with atomic_write(folder / file) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    return folder / f"{name}.md"


def check_columns(columns: str | Sequence[str] | None) -> list[str]:
    """The metrics to show, from a list or a comma-separated string; None: all.

    Raises:
        ValueError: an unknown column.
    """
    names = columns.split(",") if isinstance(columns, str) else columns or METRICS
    return [check_choice("columns", name.strip(), METRICS) for name in names]


def _written(
    methods: Methods, style: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Rows in one of the formats, after each method's name and number of seeds."""
    escapes: dict[str, Callable[[str], str]] = {"html": html.escape, "latex": _latex_text}
    escape = escapes.get(style, str)
    heads = ["method", "seeds", *columns]
    if style == "latex":
        heads = [_LATEX_HEADS.get(head, escape(head[0].upper() + head[1:])) for head in heads]
    written: str = tabulate(
        [
            [escape(display_name(label)), len(runs), *row]
            for (label, runs), row in zip(methods.items(), rows, strict=True)
        ],
        heads,
        tablefmt={"html": "unsafehtml", "latex": "latex_raw"}.get(style, style),  # escaped above
        disable_numparse=True,
        colalign=["left", *["right"] * (len(heads) - 1)] if rows else None,
    )
    if style == "latex":
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            written = written.replace(r"\hline", rule, 1)
        written = f"% needs \\usepackage{{booktabs}}\n{written}"
    return written


def _latex_text(text: str) -> str:
    """Text in which LaTeX finds no command."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX_CHARACTERS[found[0]], text)
