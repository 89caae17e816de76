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

import matplotlib as mpl

from ..utils import atomic_write
from .figures import INK, STYLE, Drawing, drawings
from .labels import display_name
from .summary import Methods, lead
from .tables import cost_table, table

_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.lead { font-size: 1.15rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8885; white-space: nowrap; }
th { text-align: left; }
.grid { display: grid; gap: 1.5rem; align-items: start; }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
figcaption, .small { font-size: .9rem; opacity: .8; }
pre { overflow-x: auto; font-size: .8rem; } .command { white-space: pre-wrap; }
"""
_METRICS = """A_T: accuracy on all classes after the last experience. A_bar: mean of the same after
each experience. A_new: mean accuracy on the newest classes. Forgetting: best earlier accuracy on
the classes of an experience minus the last. Mean ± standard deviation over seeds, in percent. Bold:
best mean of a column; underlined: second best. Upper bounds (Joint, Cumulative) are not ranked."""
_COSTS = """Means over seeds. Seconds: wall-clock time, with whatever else ran beside. Peak memory:
of the GPU, or of the whole process on a CPU. Updated: entries of the backbone that differ from the
pretrained ones, and their share."""


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
    parts = [f"<h1>{html.escape(title)}</h1><p class=lead>{html.escape(lead(methods))}"]
    parts += [f"<p class=lead><strong>{html.escape(line)}</strong>" for line in failed]
    parts.append(f"<div class=wide>{table(methods, 'html', columns)}</div>{_list(notes)}")
    parts.append(f"<p class=small>{_METRICS}<h2>Costs</h2>")
    parts.append(f"<div class=wide>{cost_table(methods, 'html')}</div><p class=small>{_COSTS}")
    figures = drawings(methods) if drawn is None else drawn
    for section, group in itertools.groupby(figures, lambda drawing: drawing.section):
        embedded = "".join(map(_embedded, group))
        parts.append(f"<h2>{section}</h2><div class=grid>{embedded}</div>")
    if confused := _list(_confused(methods)):
        parts.append(f"<h2>Most often confused after the last experience</h2>{confused}")
    parts.append(f"<h2>How it was made</h2>{_settings(methods, command)}")
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
        f"<li>{html.escape(display_name(label))}: {html.escape(sentence)}"
        for label, sentence in sentences.items()
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _confused(methods: Methods) -> dict[str, str]:
    """The five pairs of classes that each method confuses most, with its first seed."""
    found = {}
    for label, (run, *_) in methods.items():
        names, pairs = run.get("class_names", []), run.get("confusion", {}).get("classes", [])[:5]
        if pairs:
            said = "; ".join(f"{names[i]} taken for {names[j]} ({n}×)" for i, j, n in pairs)
            found[label] = f"{said}."
    return found


@mpl.rc_context(STYLE)
def _embedded(drawing: Drawing) -> str:
    """A figure as SVG in the page's ink, without a background."""
    out = io.StringIO()
    undated = {"Date": None, "Creator": None}
    drawing.figure.savefig(out, format="svg", facecolor="none", metadata=undated)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    caption = html.escape(drawing.caption)
    label = f'<svg role="img" aria-label="{drawing.section}. {caption}"'
    svg = svg.replace("<svg", label, 1)
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def _settings(methods: Methods, command: str | None) -> str:
    """The command line, what the runs share, and every setting and version of each method."""
    config = next(iter(methods.values()))[0]["config"]
    shared = [str(config[key]) for key in ("benchmark", "backbone", "precision") if key in config]
    date = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    parts = [f"<pre class=command>{html.escape(command)}</pre>"] if command else []
    parts.append(f"<p>{html.escape(', '.join([*shared, date]))}")
    for label, (run, *_) in methods.items():
        content = {name: run.get(name) for name in ("config", "inputs", "environment")}
        text = html.escape(json.dumps(content, indent=1, default=dict))
        name = html.escape(display_name(label))
        parts.append(f"<details><summary>{name}: all settings</summary><pre>{text}</pre></details>")
    return "".join(parts)
