"""``report.html``: tables and pictures of runs in one file that needs nothing else."""

from __future__ import annotations

import html
import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

from .._support.disk import replacing
from ..strategies.names import display_name
from .pictures import MATRICES, Picture, pictures
from .summary import Runs
from .tables import cost_table, table

_INK = "#123456"  # what the page's own text colour takes the place of
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8885; white-space: nowrap; }
th, td { text-align: right; } th:first-child, .note { text-align: left; font-weight: normal; }
thead th { font-weight: 600; } .note { white-space: normal; min-width: 16rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
figure { margin: 0 0 1rem; overflow-x: auto; }
svg { width: 100%; height: auto; max-width: 56rem; min-width: 30rem; } .grid svg { min-width: 0; }
pre { overflow-x: auto; font-size: .8rem; } figcaption { font-size: .9rem; opacity: .8; }
"""
_MEANINGS = """A_T: accuracy on all classes after the last experience. A_bar: mean of that after
each experience. A_new: mean accuracy on the newest classes. Forgetting: best earlier accuracy on
the classes of an experience less the last. Mean ± standard deviation over seeds, in percent.
Trainable: entries of the model that require gradients. Updated: entries of the backbone that
differ from the pretrained ones."""


def write_page(methods: Mapping[str, Runs], path: Path, title: str) -> None:
    """Write the report.

    Args:
        methods: name to the results of its seeds.
        path: of the file.
        title: its heading.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<div class=wide>{table(methods, 'html')}</div><p>{_MEANINGS}</p>",
        f"<h2>What it costs</h2><div class=wide>{cost_table(methods, 'html')}</div>",
    ]
    with mpl.rc_context(_colours()):
        for section, group in itertools.groupby(pictures(methods), lambda p: p.section):
            found = "".join(_embedded(picture) for picture in group)
            small = section == MATRICES
            heading = f"<h2>{html.escape(section)}</h2>" if section else ""
            parts.append(heading + (f"<div class=grid>{found}</div>" if small else found))
    parts.append(f"<h2>Settings and versions</h2>{_settings(methods)}")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _colours() -> Any:
    """Ink in the page's colour on nothing, so that dark and light both work."""
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(keys, _INK),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "mist_avalanche",
    }


def _embedded(picture: Picture) -> str:
    """A picture as SVG, with its content in words for those who cannot see it."""
    out = io.StringIO()
    picture.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    label = html.escape(f"{picture.title}. {picture.text}", quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{html.escape(picture.title)}</figcaption></figure>"


def _settings(methods: Mapping[str, Runs]) -> str:
    blocks = []
    for label, runs in methods.items():
        content = {"config": runs[0]["config"], "environment": runs[0]["environment"]}
        text = html.escape(json.dumps(content, indent=1, default=dict))
        blocks.append(
            f"<details><summary>{html.escape(display_name(label))}</summary><pre>{text}</pre></details>"
        )
    return "".join(blocks)
