"""``report.html``: tables and pictures of runs in one file that needs nothing else."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .figures import accuracy_figure, matrix_figure, selection_figure, tradeoff_figure
from .tables import Runs, mean_and_std, table

_INK = "#123456"  # what the page's own text colour takes the place of
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8885; white-space: nowrap; }
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
    with mpl.rc_context(_colours()):
        pictures = [
            _picture(accuracy_figure(methods), "Accuracy on all classes seen", _curves(methods)),
            _picture(tradeoff_figure(methods), "Plasticity against stability", _trade(methods)),
        ]
        matrices = [
            _picture(
                matrix_figure(label, runs),
                f"{label}: accuracy by experience",
                f"After the last experience: {_row(runs[0]['accuracy'][-1])}.",
            )
            for label, runs in methods.items()
        ]
        layers = [
            _picture(
                selection_figure(runs[0]["mist"]["layers"], label),
                f"{label}: entries that may move",
                _overlap(runs),
            )
            for label, runs in methods.items()
            if runs[0].get("mist", {}).get("layers")
        ]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<div class=wide>{table(methods, 'html')}</div><p>{_MEANINGS}</p>",
        *pictures,
        f"<h2>Accuracy by experience</h2><div class=grid>{''.join(matrices)}</div>",
    ]
    if layers:
        parts.append(f"<h2>Where MIST may move the backbone</h2>{''.join(layers)}")
    parts.append(f"<h2>Settings and versions</h2>{_settings(methods)}")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    path.write_text(page)


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


def _picture(figure: Figure, title: str, text: str) -> str:
    """A figure as SVG, with its content in words for those who cannot see it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    label = html.escape(f"{title}. {text}", quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{svg}<figcaption>{html.escape(title)}</figcaption></figure>"


def _row(values: list[float]) -> str:
    return ", ".join(f"{v:.0f} %" for v in values)


def _curves(methods: Mapping[str, Runs]) -> str:
    parts = [f"{k} ends at {mean_and_std(r)['A_T']['mean']:.1f} %" for k, r in methods.items()]
    return "; ".join(parts)


def _trade(methods: Mapping[str, Runs]) -> str:
    found = {label: mean_and_std(runs) for label, runs in methods.items()}
    return "; ".join(
        f"{label}: {m['A_new']['mean']:.1f} % of the newest classes, "
        f"{m['forgetting']['mean']:.1f} points forgotten"
        for label, m in found.items()
    )


def _overlap(runs: Runs) -> str:
    overlaps = runs[0]["mist"].get("overlaps")
    share = f"{100 * runs[0]['mist']['selected_fraction']:.2f} % of the backbone"
    return share + (f"; shared with the selection before: {_shares(overlaps)}" if overlaps else "")


def _shares(values: list[float]) -> str:
    return _row([100 * v for v in values])


def _settings(methods: Mapping[str, Runs]) -> str:
    blocks = []
    for label, runs in methods.items():
        content = {"config": runs[0]["config"], "environment": runs[0]["environment"]}
        text = html.escape(json.dumps(content, indent=1, default=dict))
        blocks.append(
            f"<details><summary>{html.escape(label)}</summary><pre>{text}</pre></details>"
        )
    return "".join(blocks)
