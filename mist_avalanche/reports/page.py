"""One self-contained HTML page with the tables and figures of a comparison."""

import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl

from ..utils import atomic_write
from .figures import STYLE, Drawing, drawings
from .labels import display_name
from .summary import Methods, described, environment, lead
from .tables import cost_table, table

_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2, .lead { font-size: 1.15rem; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8885; white-space: nowrap; }
th { text-align: left; }
.grid { display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; } svg text { fill: currentColor; }
figcaption, .small { font-size: .9rem; opacity: .8; }
pre, .wide { overflow-x: auto; } .command { white-space: pre-wrap; }
.wide { background: linear-gradient(to left, Canvas, Canvas) right local,
  linear-gradient(to left, #888a, #8880) right scroll; background-repeat: no-repeat;
  background-size: 1.2rem 100%; } /* a shadow where a table goes on */
"""
_METRICS = """A_T: accuracy on all classes after the last experience. A_bar: mean of the same after
each experience. A_new: mean accuracy on the newest classes. Forgetting: best earlier accuracy on
the classes of an experience minus the last. Δ: mean gain over the strategy without MIST, where that
was run too. Mean ± standard deviation over seeds, in percent. Bold: best mean of an accuracy; upper
bounds (Joint, Cumulative) do not count."""
_COSTS = """Means over seeds. CPU seconds: sum over cores; GPU seconds: while the run had the GPU.
Entries, in thousands: trained by gradient; added to the backbone for predictions; stored for later
experiences, besides stored images. Updated: share of the backbone that differs from the pretrained
one."""


def write_page(
    methods: Methods,
    path: Path,
    title: str,
    *,
    command: str | None = None,
    notes: Mapping[str, str] = MappingProxyType({}),
    failed: Sequence[str] = (),
    drawn: Sequence[Drawing] | None = None,
) -> None:
    """Write the page.

    Args:
        methods: label to the results of its seeds.
        path: path of the file.
        title: heading of the page.
        command: the command line that produced the runs.
        notes: a sentence about some methods, by label.
        failed: a sentence for each missing run.
        drawn: the figures that ``write_figures`` returned; None draws them.
    """
    figures = drawings(methods) if drawn is None else drawn
    first = next(iter(methods.values()))[0]
    settings = {label: runs[0]["config"] for label, runs in methods.items()}
    made = {"methods": settings, "inputs": first["inputs"], "environment": environment(methods)}
    sentences = [f"{display_name(label)}: {note}" for label, note in notes.items()]
    items = "".join(f"<li>{_with_code(sentence)}" for sentence in sentences)
    about = f"<ul>{items}</ul>" if items else ""
    page = f"""<!doctype html>
<html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>
<meta name=viewport content="width=device-width, initial-scale=1"><style>{_CSS}</style>
<h1>{html.escape(title)}</h1>
<p class=lead>{_with_code(lead(methods))}
{"".join(f"<p class=lead><strong>{html.escape(line)}</strong>" for line in failed)}
<div class=wide>{table(methods, "html")}</div>
{about}
<p class=small>{html.escape(described(methods))} {_METRICS}
<h2>Costs</h2>
<div class=wide>{cost_table(methods, "html")}</div>
<p class=small>{_COSTS}
<h2>Figures</h2>
<div class=grid>{"".join(map(_embedded, figures))}</div>
<h2>How it was made</h2>
<pre class=command>{html.escape(command or "")}</pre>
<p>{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}
<details><summary>All settings and versions</summary>
<pre>{html.escape(json.dumps(made, indent=1, default=dict))}</pre></details>
"""
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _with_code(text: str) -> str:
    """HTML of a sentence with code between backquotes."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


@mpl.rc_context(STYLE)
def _embedded(drawing: Drawing) -> str:
    """A figure as SVG without a background, with black replaced by the page's text colour."""
    out = io.StringIO()
    drawing.figure.savefig(out, format="svg", facecolor="none")
    svg = out.getvalue().replace("#000000", "currentColor")
    caption = html.escape(drawing.caption)
    svg = f'<svg role="img" aria-label="{caption}"{svg[svg.index("<svg") + 4 :]}'
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"
