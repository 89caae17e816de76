"""``report.html``: tables and pictures of runs in one file that needs nothing else."""

from __future__ import annotations

import html
import io
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl

from .._support.disk import replacing
from .facts import confusion_table, every_setting, how_it_was_made, selection_table
from .pictures import CONFUSIONS, INK, LAYERS, Picture, pictures
from .summary import Runs
from .tables import cost_table, html_table
from .words import lead

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8885; white-space: nowrap; }
th, td { text-align: right; } th:first-child, .note { text-align: left; font-weight: normal; }
thead th { font-weight: 600; } .note { white-space: normal; min-width: 16rem; }
.grid { display: grid; gap: 1.5rem; align-items: start; }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
.lead { font-size: 1.15rem; } .command { padding: .5rem; border: 1px solid #8885; }
pre { overflow-x: auto; font-size: .8rem; } .command { white-space: pre-wrap; }
figcaption { font-size: .9rem; opacity: .8; }
"""
_MEANINGS = """A_T: accuracy on all classes after the last experience. A_bar: mean of that after
each experience. A_new: mean accuracy on the newest classes. Forgetting: best earlier accuracy on
the classes of an experience less the last. Mean ± standard deviation over seeds, in percent.
Bold is the best mean of a column, underlined the second; upper bounds (Joint, Cumulative) take no
part."""
_COSTS = """Means over seeds. Seconds: of a run as it was, where others went on at the same time
beside them. Memory: of the GPU, or of the whole process on a CPU. Updated: entries
of the backbone that differ from the pretrained ones, and their share of it."""


def write_page(
    methods: Mapping[str, Runs],
    path: Path,
    title: str,
    *,
    command: str | None = None,
    columns: str | Sequence[str] | None = None,
    notes: Mapping[str, str] = MappingProxyType({}),
    failed: Sequence[str] = (),
    drawn: Sequence[Picture] | None = None,
) -> None:
    """Write the report.

    Args:
        methods: name to the results of its seeds.
        path: of the file.
        title: its heading.
        command: the command line that made the runs, to be shown.
        columns: of the table of accuracy; None for all.
        notes: a sentence beside some methods, by name.
        failed: a sentence for each run that is missing.
        drawn: its pictures, as ``write_figures`` returns them; None draws them.
    """
    date = datetime.now().astimezone().isoformat(" ", "minutes")
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=lead>{html.escape(lead(methods))}</p>",
        *(f"<p class=lead><strong>{html.escape(line)}</strong></p>" for line in failed),
        f"<div class=wide>{html_table(methods, columns, notes)}</div><p>{_MEANINGS}</p>",
        f"<h2>What it costs</h2><div class=wide>{cost_table(methods, 'html')}</div>",
        f"<p>{_COSTS}</p>",
    ]
    drawn = pictures(methods) if drawn is None else drawn
    for section, group in itertools.groupby(drawn, lambda p: p.section):
        found = "".join(_embedded(picture) for picture in group)
        heading = section or "Figures"
        tables = {LAYERS: selection_table, CONFUSIONS: confusion_table}
        table = tables[section](methods) if section in tables else ""
        parts.append(f"<h2>{html.escape(heading)}</h2>{table}<div class=grid>{found}</div>")
    parts.append(f"<h2>How it was made</h2>{how_it_was_made(methods, command, date)}")
    parts.append(every_setting(methods))
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _embedded(picture: Picture) -> str:
    """A picture as SVG, with its content in words for those who cannot see it.

    Its ink has the page's colour, on nothing, so that dark and light both work.
    """
    out, undated = io.StringIO(), {"Date": None, "Creator": None}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mist_avalanche"}):
        picture.figure.savefig(out, format="svg", facecolor="none", metadata=undated)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    label = html.escape(f"{picture.title}. {picture.text}", quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{html.escape(picture.title)}</figcaption></figure>"
