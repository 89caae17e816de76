"""One HTML page with the tables and figures of a comparison, which needs no other file."""

from __future__ import annotations

import html
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl

from ..utils import atomic_write
from .figures import INK, STYLE, Drawing, drawings
from .labels import display_name
from .summary import Methods, Runs, lead
from .tables import cost_table, table

_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.lead { font-size: 1.15rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8885; white-space: nowrap; }
th, td { text-align: right; font-variant-numeric: tabular-nums; }
.facts th { text-align: left; font-weight: normal; }
.facts td { text-align: left; white-space: normal; }
.grid { display: grid; gap: 1.5rem; align-items: start; }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
figcaption, .small { font-size: .9rem; opacity: .8; }
pre { overflow-x: auto; font-size: .8rem; }
"""
_METRICS = """A_T: accuracy on all classes after the last experience. A_bar: mean of the same after
each experience. A_new: mean accuracy on the newest classes. Forgetting: best earlier accuracy on
the classes of an experience minus the last. Mean ± standard deviation over seeds, in percent. Bold:
best mean of a column; underlined: second best. Upper bounds (Joint, Cumulative) are not ranked."""
_COSTS = """Means over seeds. Seconds: wall clock, other runs beside it included. Peak memory: of
the GPU, or of the whole process on a CPU. Updated: entries of the backbone that differ from the
pretrained ones, and their share of it."""


def write_page(
    methods: Methods,
    path: Path,
    title: str,
    *,
    command: str | None = None,
    columns: str | Sequence[str] | None = None,
    notes: Mapping[str, str] = MappingProxyType({}),
    failed: Sequence[str] = (),
    drawn: Sequence[Drawing] | None = None,
) -> None:
    """Write the page.

    Args:
        methods: label to the results of its seeds.
        path: of the file.
        title: heading of the page.
        command: the command line that made the runs.
        columns: of the table of accuracy, as of :func:`~mist_avalanche.reports.table`.
        notes: a sentence about some methods, by label.
        failed: a sentence for each run that is missing.
        drawn: the figures that ``write_figures`` returned; None draws them.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p class=lead>{html.escape(lead(methods))}</p>"]
    parts += [f"<p class=lead><strong>{html.escape(line)}</strong></p>" for line in failed]
    parts.append(f"<div class=wide>{table(methods, 'html', columns)}</div>")
    parts.append(f"{_list(notes)}<p class=small>{_METRICS}</p>")
    parts.append(f"<h2>Costs</h2><div class=wide>{cost_table(methods, 'html')}</div>")
    parts.append(f"<p class=small>{_COSTS}</p>")
    figures = drawings(methods) if drawn is None else drawn
    for section, group in itertools.groupby(figures, lambda drawing: drawing.section):
        embedded = "".join(map(_embedded, group))
        confused = _list(_confused(methods)) if section.startswith("Confusion") else ""
        parts.append(f"<h2>{section}</h2>{confused}<div class=grid>{embedded}</div>")
    parts.append(f"<h2>How it was made</h2>{_facts(methods, command)}")
    parts += [_all_settings(label, runs) for label, runs in methods.items()]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{_CSS}</style>{''.join(parts)}\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _list(sentences: Mapping[str, str]) -> str:
    """Sentences about methods, by label."""
    items = [
        f"<li><b>{html.escape(display_name(label))}</b>: {html.escape(sentence)}"
        for label, sentence in sentences.items()
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _confused(methods: Methods, n: int = 5) -> dict[str, str]:
    """The pairs of classes that each method confuses most with its first seed."""
    found = {}
    for label, runs in methods.items():
        names = runs[0].get("class_names", [])
        pairs = runs[0].get("confusion", {}).get("classes", [])[:n]
        if pairs:
            said = "; ".join(f"{names[i]} as {names[j]} ({count})" for i, j, count in pairs)
            found[label] = f"{said}."
    return found


@mpl.rc_context(STYLE)
def _embedded(drawing: Drawing) -> str:
    """A figure as SVG with the page's ink on no background, and its content for screen readers."""
    out = io.StringIO()
    undated = {"Date": None, "Creator": None}
    drawing.figure.savefig(out, format="svg", facecolor="none", metadata=undated)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    title, label = html.escape(drawing.title), html.escape(f"{drawing.title}. {drawing.text}.")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{title}</figcaption></figure>"


def _facts(methods: Methods, command: str | None) -> str:
    """The command line, the date, and the settings and versions that all runs share."""
    runs = [{**run["config"], **run["environment"]} for found in methods.values() for run in found]
    facts: dict[str, Any] = {
        "command": command,
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
        "seeds": ", ".join(str(seed) for seed in dict.fromkeys(run.get("seed") for run in runs)),
    }
    for key, value in runs[0].items():
        if all(run.get(key) == value for run in runs):
            facts.setdefault(key, value)
    rows = [
        f"<tr><th scope=row>{html.escape(name)}<td>{html.escape(str(value))}"
        for name, value in facts.items()
        if value not in (None, False, "", {}, [])
    ]
    return f"<div class=wide><table class=facts><tbody>{''.join(rows)}</table></div>"


def _all_settings(label: str, runs: Runs) -> str:
    """All settings of a method, folded."""
    content = {"config": runs[0]["config"], "environment": runs[0]["environment"]}
    text = html.escape(json.dumps(content, indent=1, default=dict))
    summary = f"{html.escape(display_name(label))}: all settings"
    return f"<details><summary>{summary}</summary><pre>{text}</pre></details>"
