"""How tables are written: cells of marked numbers, as text, Markdown, HTML and LaTeX (pure)."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tabulate import tabulate

from .columns import BEST, SECOND

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


class Cell(NamedTuple):
    """Text, what follows it unmarked (a standard deviation), and the text's rank."""

    text: str
    rest: str = ""
    rank: int = 0


def latex_text(text: str) -> str:
    """Text of which LaTeX reads no part as a command."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX[found[0]], text)


def _marked(best: str, second: str) -> Callable[[Cell], str]:
    patterns = {0: "{}", BEST: best, SECOND: second}
    return lambda cell: patterns[cell.rank].format(cell.text) + cell.rest


def as_text(heads: Sequence[str], rows: Sequence[Sequence[Cell]], style: str = "simple") -> str:
    """For the terminal or, with the style ``pipe``, in Markdown; that has the marks.

    Markdown has no underline of its own; ``<ins>`` is HTML that most readers of it show.
    """
    plain = style != "pipe"
    shown = (lambda c: c.text + c.rest) if plain else _marked("**{}**", "<ins>{}</ins>")
    text: str = tabulate(
        [
            [shown(cell) if plain or i else shown(_safe(cell)) for i, cell in enumerate(row)]
            for row in rows
        ],
        heads,
        tablefmt=style,
        disable_numparse=True,
        colalign=["left", *["right"] * (len(heads) - 1)],
    )
    return text


def _safe(cell: Cell) -> Cell:
    """A name that ends no cell of Markdown."""
    return cell._replace(text=cell.text.replace("|", r"\|"))


def as_html(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str] = (),
    note_head: str = "what it changes",
) -> str:
    """``<table>``; the heads are HTML, the cells text. Notes, one a row, are a last column."""
    shown = _marked("<b>{}</b>", "<u>{}</u>")
    lines = []
    for i, row in enumerate(rows):
        first, *others = (
            shown(Cell(html.escape(c.text), html.escape(c.rest), c.rank)) for c in row
        )
        cells = "".join(f"<td>{cell}" for cell in others)
        note = f"<td class=note>{html.escape(notes[i])}" if notes else ""
        lines.append(f"<tr><th scope=row>{first}{cells}{note}</tr>")
    top = "".join(f"<th scope=col>{head}" for head in heads)
    top += f"<th scope=col class=note>{note_head}" if notes else ""
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def as_latex(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    r"""A ``tabular`` that needs ``\usepackage{booktabs}``; the heads are LaTeX, the cells text."""
    shown = _marked(r"\textbf{{{}}}", r"\underline{{{}}}")
    lines = [
        " & ".join(shown(Cell(latex_text(c.text), latex_text(c.rest), c.rank)) for c in row)
        for row in rows
    ]
    body = "".join(f"{line} \\\\\n" for line in lines).replace("±", r"$\pm$")
    return (
        "% needs \\usepackage{booktabs}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n\\toprule\n"
        f"{' & '.join(heads)} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )
