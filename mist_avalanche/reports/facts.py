"""How runs were made, as tables of a page: settings, versions, hardware, what may move."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from ..strategies.names import display_name
from .markup import Cell, as_html
from .summary import Runs
from .words import counted

_SETTINGS = (
    *("benchmark", "split", "experiences", "first", "order_seed"),
    *("backbone", "weights", "image_size"),
    *("normalize", "precision", "compile"),
)
_MACHINE = ("device", "processor", "cpus", "threads", "processes", "system")


def how_it_was_made(methods: Mapping[str, Runs], command: str | None, date: str) -> str:
    """The command line, settings that methods share, versions, hardware and date."""
    first = next(iter(methods.values()))[0]
    inputs = first.get("inputs", {})
    config = {**first["config"], "image_size": inputs.get("image_size")}
    if inputs.get("mean") is None:
        config["normalize"] = f"{config.get('normalize', 'none')}: images in [0, 1]"
    made = first["environment"]
    packages = [f"{k} {v}" for k, v in made.items() if k not in _MACHINE]
    machine = [f"{k} {made[k]}" for k in _MACHINE if made.get(k) is not None]
    seeds = {run["config"].get("seed") for runs in methods.values() for run in runs} - {None}
    rows = {
        **{name: config[name] for name in _SETTINGS if config.get(name) not in (None, False)},
        "seeds": ", ".join(map(str, sorted(seeds))),
        "hardware": ", ".join(machine),
        "versions": ", ".join(packages),
        "date": date,
    }
    lines = "".join(
        f"<tr><th scope=row>{html.escape(name)}<td class=note>{html.escape(str(value))}</tr>"
        for name, value in rows.items()
        if value != ""
    )
    line = f"<pre class=command>{html.escape(command)}</pre>" if command else ""
    return f"{line}<div class=wide><table><tbody>{lines}</tbody></table></div>"


def every_setting(methods: Mapping[str, Runs]) -> str:
    """All settings of each method, folded away."""
    blocks = []
    for label, runs in methods.items():
        content = {"config": runs[0]["config"], "environment": runs[0]["environment"]}
        text = html.escape(json.dumps(content, indent=1, default=dict))
        name = html.escape(display_name(label))
        blocks.append(
            f"<details><summary>{name}: all settings</summary><pre>{text}</pre></details>"
        )
    return "".join(blocks)


def selection_table(methods: Mapping[str, Runs]) -> str:
    """What MIST lets move of each backbone, and what has moved, in counts and shares; or ""."""
    rows = []
    for label, runs in methods.items():
        layers = runs[0].get("mist", {}).get("layers")
        if not layers:
            continue
        total, always = sum(row[2] for row in layers), sum(row[1] for row in layers if row[3])
        selected = sum(row[1] for row in layers)
        moved = runs[0].get("parameters", {}).get("updated")
        rows.append(
            [
                Cell(display_name(label)),
                Cell(f"{total:,}"),
                *_counts(selected, total),
                Cell(f"{always:,}"),
                *_counts(moved, total),
            ]
        )
    if not rows:
        return ""
    heads = ["method", "entries", "may move", "may move (%)", "of them biases, scales"]
    heads += ["has moved", "has moved (%)"]
    return f"<div class=wide>{as_html(heads, rows)}</div>"


def confusion_table(methods: Mapping[str, Runs], n: int = 5) -> str:
    """The pairs of classes that each method confuses most, of the first seed; or ""."""
    rows, notes = [], []
    for label, runs in methods.items():
        names = runs[0].get("class_names", [])
        pairs = runs[0].get("confusion", {}).get("classes", [])[:n]
        said = [f"{names[i]} as {names[j]} ({counted(k, 'image')})" for i, j, k in pairs]
        if said:
            rows.append([Cell(display_name(label))])
            notes.append("; ".join(said))
    if not rows:
        return ""
    return f"<div class=wide>{as_html(['method'], rows, notes, 'most often confused')}</div>"


def _counts(n: Any, total: int) -> tuple[Cell, Cell]:
    if n is None:
        return Cell(""), Cell("")
    return Cell(f"{n:,}"), Cell(f"{100 * n / total:.2f}")
