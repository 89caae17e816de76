"""Tables with one row per method: accuracy and costs, as text, Markdown, LaTeX, HTML, CSV, JSON."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import LATEX_ESCAPE_RULES, tabulate

from .labels import display_name
from .summary import (
    METRICS,
    Methods,
    best,
    check_same_data,
    costs,
    described,
    gains,
    mean_and_std,
    setting,
)

# Tables are written with Markdown marks and escaped by tabulate; then the marks are replaced.
_BOLD = {"pipe": r"**\1**", "html": r"<b>\1</b>", "latex": r"\\textbf{\1}"}
_LATEX = {
    "±": r"$\pm$",
    r"A\_T": "$A_T$",
    r"A\_bar": r"$\bar A$",
    r"A\_new": r"$A_\mathrm{new}$",
    "Δ": r"$\Delta$",
    "↓": r"$\downarrow$",
}


def table(methods: Methods, style: str = "simple") -> str:
    """Accuracy in percent, mean ± standard deviation over seeds; methods are grouped by strategy.

    Next to A_T, Δ is the mean gain over the strategy without MIST.

    Args:
        methods: label to the results of its seeds.
        style: ``"html"``, ``"latex"`` (booktabs) or ``"pipe"`` (Markdown), with the best mean of an
            accuracy in bold; or another format of tabulate.

    Raises:
        ValueError: the runs have different images or weights.
    """
    check_same_data(methods)
    shown: dict[str, list[str]] = {}
    for metric in METRICS:
        winners, cells = best(methods, metric) if style in _BOLD else [], []
        for label, runs in methods.items():
            found = mean_and_std(runs)[metric]
            mean = f"**{found['mean']:.1f}**" if label in winners else f"{found['mean']:.1f}"
            cells.append(mean if found["std"] is None else f"{mean} ± {found['std']:.1f}")
        shown["forgetting ↓" if metric == "forgetting" else metric] = cells
        if metric == "A_T" and (found_gains := {gain.label: gain.mean for gain in gains(methods)}):
            shown["Δ"] = [f"{found_gains[m]:+.1f}" if m in found_gains else "" for m in methods]
    return _format(methods, shown, style)


def cost_table(methods: Methods, style: str = "simple") -> str:
    """Costs as means over seeds; arguments as for :func:`table`."""
    heads = {
        "cpu_seconds": ("CPU seconds", 1),
        "gpu_seconds": ("GPU seconds", 1),
        "memory": ("peak memory (MiB)", 2**-20),
        "trained": ("trained (k)", 1e-3),
        "added": ("added (k)", 1e-3),
        "stored": ("stored (k)", 1e-3),
        "stored_images": ("stored images", 1),
        "updated_share": ("updated (%)", 100),
    }
    found = [costs(runs) for runs in methods.values()]
    shown = {}
    for name, (head, factor) in heads.items():
        digits = 2 if name == "updated_share" else 0
        values = [cost[name] for cost in found]
        if any(values):
            shown[head] = ["" if v is None else f"{factor * v:,.{digits}f}" for v in values]
    return _format(methods, shown, style)


def write_tables(methods: Methods, folder: Path, name: str) -> Path:
    """Write ``NAME.md`` and ``.tex`` (accuracy), ``NAME-costs.md`` and ``.tex``, and all numbers.

    ``NAME.csv`` and ``NAME.json`` contain every metric (in percent) and every cost (in seconds,
    bytes or as a fraction), unrounded. The path of ``NAME.md`` is returned.
    """
    numbers = {}
    for label, runs in methods.items():
        numbers[label] = {"name": display_name(label), "seeds": len(runs)}
        for metric, found in mean_and_std(runs).items():
            numbers[label] |= {metric: found["mean"], f"{metric}_std": found["std"]}
        numbers[label] |= {**costs(runs), **setting({label: runs})}
    about, label = described(methods), folder.resolve().name
    escaped = about.translate(str.maketrans(LATEX_ESCAPE_RULES))
    seeds = sorted({len(runs) for runs in methods.values()})
    over = f"over {' or '.join(map(str, seeds))} seeds"
    spread = "one seed" if seeds == [1] else f"mean $\\pm$ standard deviation {over}"
    means = "one seed" if seeds == [1] else f"mean {over}"
    accuracies = f"Accuracy (\\%), {spread}. {escaped}"
    costs_of = f"Costs, {means}. Entries in thousands. {escaped}"
    texts = {
        f"{name}.md": f"{table(methods, 'pipe')}\n\n{about}",
        f"{name}.tex": _float(table(methods, "latex"), accuracies, label),
        f"{name}-costs.md": cost_table(methods, "pipe"),
        f"{name}-costs.tex": _float(cost_table(methods, "latex"), costs_of, f"{label}-costs"),
        f"{name}.json": json.dumps(numbers, indent=1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(f"{text}\n", encoding="utf-8", errors="replace")
    with (folder / f"{name}.csv").open("w", encoding="utf-8", errors="replace", newline="") as out:
        writer = csv.DictWriter(out, ["method", *next(iter(numbers.values()))])
        writer.writeheader()
        writer.writerows({"method": label, **row} for label, row in numbers.items())
    return folder / f"{name}.md"


def _float(tabular: str, caption: str, label: str) -> str:
    """A LaTeX table with a caption; if it is wider than the text, both margins share the rest."""
    head = f"\\caption{{{caption}}}\n\\label{{tab:{label}}}\n\\smallskip"
    size = "\\footnotesize\n\\setlength{\\tabcolsep}{3pt}"
    body = f"\\makebox[\\linewidth]{{%\n{tabular}}}"
    return f"\\begin{{table}}\n\\centering\n{head}\n{size}\n{body}\n\\end{{table}}"


def _format(methods: Methods, columns: Mapping[str, Sequence[str]], style: str) -> str:
    """Format a table with each method's name and number of seeds, followed by the columns."""
    hosts = [label.partition("+")[0] for label in methods]
    cells = zip(methods.items(), zip(*columns.values(), strict=True), strict=True)
    rows = [[display_name(label), len(runs), *row] for (label, runs), row in cells]
    order = sorted(range(len(rows)), key=lambda i: hosts.index(hosts[i]))
    text = tabulate(
        [rows[i] for i in order],
        ["method", "seeds", *columns],
        tablefmt="latex_booktabs" if style == "latex" else style,
        disable_numparse=True,
        colalign=["left", "right", *["right"] * len(columns)],
    )
    text = re.sub(r"\*\*(\S+)\*\*", _BOLD.get(style, r"\1"), text)
    if style == "latex":
        for plain, command in _LATEX.items():
            text = text.replace(plain, command)
        text = re.sub(r"(?<=& )( *)-([\d.]+)", r"\1$-$\2", text)
        lines = text.split("\n")  # four lines precede the first row
        for n in reversed(range(1, len(order))):
            if hosts[order[n]] != hosts[order[n - 1]]:
                lines.insert(4 + n, r"\midrule")
        return "\n".join(lines)
    return text
